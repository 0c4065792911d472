# What layers hold arrives exactly, where they are large.
# seconds: 2400

case_a_file_beyond_4_gib() {
    local sum
    sum=$(python3 tests/lib/archives.py beyond_4_gib "$T/beyond_4_gib.tar")
    hull load -q -i "$T/beyond_4_gib.tar" >/dev/null
    capture hull run --rm beyond_4_gib:latest sh -c 'stat -c %s large holes; cat after
        n=0; while [ $n -lt 65 ]; do dd if=large bs=512 skip=$((n * 131072)) count=1 2>/dev/null | head -c 3 | head -n 1; n=$((n + 1)); done
        tail -c 5 large'
    expect_eq "$out" "$(printf '%s\n' 4362076165 9663676417 after $(seq 0 64) tail)"$'\n' 'sizes, and what stands where'
    expect_eq "$(hull run --rm beyond_4_gib:latest sh -c 'head -c 1 holes; dd if=holes bs=512 skip=10485760 count=1 2>/dev/null | head -c 1; tail -c 1 holes')" xyz 'what stands between holes'
    expect_eq "$(hull run --rm beyond_4_gib:latest sha256sum large)" "$sum  large" 'the sum of all of it'
}
