# A layer is unpacked once, whatever images have it.

# layered NAME WORD...: an image of busybox and a layer for each word.
layered() {
    local name=$1
    shift
    python3 - "$T/$name.tar" "$@" <<'PY'
import random, sys
sys.path.insert(0, "tests/lib")
import archives
layers = [archives.busybox_layer()]
for word in sys.argv[2:]:
    data = random.Random(word).randbytes(3_000_000)
    layers.append(archives.layer(archives.entry(word, data=data), archives.entry("last", data=word.encode())))
archives.write_image(sys.argv[1], layers)
PY
    hull load -q -i "$T/$name.tar" >/dev/null
}

# check NAME WORD...: the files of the words are what they should be.
check() {
    local name=$1 word
    shift
    for word; do python3 -c "import hashlib, random; print(hashlib.sha256(random.Random('$word').randbytes(3_000_000)).hexdigest(), ' $word')"; done >"$T/sums"
    expect_eq "$(hull run --rm -i "$name" sh -c "sha256sum $* last" 2>&1 | head -n $#)" "$(cat "$T/sums")" "content of $name"
    expect_eq "$(hull run --rm "$name" cat last)" "${*: -1}" 'the topmost layer'
}

case_images_share_their_layers() {
    local store=$HARNESS/state/erofs/2
    layered shared-one a b
    local before
    before=$(ls "$store/layers" | wc -l)
    layered shared-two a b c
    expect_eq "$(ls "$store/layers" | wc -l)" "$((before + 2))" 'content and index of the third layer alone'
    check shared-one a b
    check shared-two a b c
    # The device as the guest has it, for a second opinion.
    python3 tests/lib/composite.py "$HARNESS/state" shared-two:latest "$T/composite.erofs"
    fsck.erofs "$T/composite.erofs" >"$T/fsck" 2>&1 || fail "fsck.erofs: $(cat "$T/fsck")"
    hull rmi shared-one >/dev/null
    check shared-two a b c
    hull rmi shared-two >/dev/null
    [ "$(ls "$store/layers" | wc -l)" -lt "$before" ] || fail 'layers of no image stay'
}
