# Hull's two doors: `make demo` and `make test`. Everything they need they install, saying what
# and why. Run `make help` for the rest.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
DIST := dist
MUSL := x86_64-unknown-linux-musl
HOST_BINS := hull hulld containerd-shim-hull-v2 hull-runtime hull-unpack
export PATH := $(CURDIR)/$(DIST)/bin:$(HOME)/.cargo/bin:$(PATH)

.PHONY: help demo test test-long setup-demo reproducible bench build programs kernel virtiofsd images setup lint sbom fmt deb unit machine-test suites fuzz clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup-demo build ## build all, make an image, run it in a microVM from a registry on loopback
	tests/demo/run

# Unit tests wait much of their time, which the release build has use for.
test: setup lint ## all tests that end within an hour from nothing; the others are in test-long
	$(MAKE) --no-print-directory -j2 --output-sync=line unit build
	$(MAKE) --no-print-directory machine-test

test-long: setup lint unit build images suites ## all tests, for hours
	tests/integration/in-machine --timeout 7200 --long
	tests/integration/power_loss
	tests/checks/machine
	tests/checks/kernel
	agent/tests/guest
	tests/checks/reproducible

bench: setup build images ## start-up, exec, output, network, storage, engine and memory beside runc, dockerd, podman and QEMU
	tests/machine/run --timeout 3600 -- tests/bench/start --json target/machine-out/start.json
	tests/machine/run --timeout 3600 -- tests/bench/runtime
	tests/machine/run --timeout 3600 -- tests/bench/net
	tests/machine/run --timeout 3600 -- tests/bench/storage
	tests/machine/run --timeout 3600 -- tests/bench/engine

setup: ## install what building and testing needs
	tests/install

setup-demo:
	tests/install --demo

build: programs kernel virtiofsd ## everything into dist/

# No path of this machine gets into a program, so the same source gives the same bytes anywhere.
programs: export RUSTFLAGS := --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
programs: export RUSTC_WORKSPACE_WRAPPER := rustc-without-paths
programs: export PATH := $(CURDIR)/packaging/rustc:$(PATH)
AGENT_BUILD = cargo build --profile guest --locked -p hull-agent --target $(MUSL)
programs: ## the Rust programs and the initramfs
	cargo build --release --locked -p hull-vmm -p hull-shim -p hull-engine -p hull
	@mkdir -p $(DIST)/bin $(DIST)/libexec/hull
	@for b in $(HOST_BINS); do cmp -s target/release/$$b $(DIST)/bin/$$b || install -m755 target/release/$$b $(DIST)/bin/$$b; done
	@cmp -s target/release/hull-vmm $(DIST)/libexec/hull/hull-vmm || install -m755 target/release/hull-vmm $(DIST)/libexec/hull/hull-vmm
	$(AGENT_BUILD) --no-default-features
	agent/initramfs target/$(MUSL)/guest/hull-agent $(DIST)/libexec/hull/initramfs.cpio
	$(AGENT_BUILD)
	agent/initramfs target/$(MUSL)/guest/hull-agent $(DIST)/libexec/hull/unpack-initramfs.cpio

kernel: ## the guest kernel, from the cache where its inputs have not changed
	@mkdir -p $(DIST)/libexec/hull
	@vmlinux=$$(guest-kernel/build | tail -n 1) && { cmp -s "$$vmlinux" $(DIST)/libexec/hull/vmlinux || install -m644 "$$vmlinux" $(DIST)/libexec/hull/vmlinux; } && tests/checks/kernel-size "$$vmlinux" && tests/checks/kernel-hardening "$${vmlinux%/*}/config"

virtiofsd: ## the server of shared directories, from the cache where its version has not changed
	vmm/virtiofsd/build $(DIST)/libexec/hull/virtiofsd

# Here and not in the test machine, which is many times slower.
images: ## the images that tests and the demo use, from the cache
	@tests/images/build busybox python >/dev/null

lint: ## formatting, clippy, licences, versions and advisories of dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	tests/checks/dependencies
	tests/checks/advisories

sbom: ## what the programs are made of, as CycloneDX, in dist/
	@mkdir -p $(DIST)
	tests/checks/sbom $(DIST)/sbom.json

reproducible: ## builds all programs twice, in two folders, and compares them (takes as long)
	tests/checks/reproducible

fmt:
	cargo fmt --all

unit: ## tests that need neither root nor KVM
	cargo nextest run --workspace --locked --no-fail-fast || { command -v cargo-nextest >/dev/null && exit 1; cargo test --workspace --locked --no-fail-fast; }

deb: ## a Debian package of dist/, with systemd units
	packaging/deb

fuzz: ## every fuzz target for FUZZ_SECONDS (60) seconds
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tests/fuzz/instrumented cargo run --profile fuzz --locked -p hull-fuzz -- --seconds $${FUZZ_SECONDS:-60}

machine-test: images suites ## the core of the tests that boot real microVMs, in the test machine where KVM here cannot
	tests/integration/in-machine --timeout 3000 --core

suites: # hostile guests, escape drill and jail, for the cases that run them in the test machine
	tests/hostile/build

clean:
	cargo clean
	rm -rf $(DIST)
