# Two commands do everything: `make run` starts a cluster, `make test` runs all tests. Both install what they need.
SHELL := /bin/bash
DATA ?=
CARGO ?= cargo

.PHONY: turns cedar run build test test-compat golden compat-quick fmt clippy deny unit e2e bench doc needs image clean fuzz soak test-operators test-upstream

build:
	$(CARGO) build --release

# Builds and starts a one-node cluster. ARGS takes more flags: make run ARGS="--hollow-nodes 10"
run: build
	exec target/release/coracle server $(if $(DATA),--data-dir $(DATA)) $(ARGS)

# The image of examples/hello.yaml, for machines that reach no registry.
image:
	deploy/needs.sh busybox-static
	examples/busybox-image.sh target/busybox.tar docker.io/library/busybox:1.36 docker.io/library/busybox:1.37

test: needs fmt clippy deny unit e2e compat-quick
	@echo "all tests passed"

# What the tests start: the real kubectl, etcd, a registry, busybox for images, nft to look at rules.
needs:
	deploy/needs.sh kubernetes-client:kubectl docker-registry busybox-static nftables:nft iproute2:ip faketime etcd-server:etcd etcd-client:etcdctl

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

deny:
	deploy/deny.sh

unit:
	$(CARGO) test --workspace --exclude coracle --no-fail-fast
	deploy/small-disk.sh $(CARGO) test --package coracle-store --lib -- --ignored

# Kills, power cuts, full and failing disks, damaged files and histories under faults, in turn, for so long; prints what was counted.
# SOAK_SEED=N runs the same again.
MINUTES ?= 10
soak:
	SOAK_MINUTES=$(MINUTES) deploy/small-disk.sh $(CARGO) test --package coracle-store --lib -- --ignored --exact --nocapture embedded::tests::crash::soak
	SOAK_MINUTES=$(MINUTES) $(CARGO) test --package coracle --test main -- --nocapture --test-threads=1 clients_of_several_servers

# The finished binary, driven from outside by the real kubectl: tests, then scenarios with their golden answers.
e2e:
	$(CARGO) test --package coracle --no-fail-fast -- --test-threads=1
	$(CARGO) build --package coracle --package coracle-conformance
	target/debug/coracle-conformance run --binary target/debug/coracle
	target/debug/coracle-conformance access --binary target/debug/coracle

# Other people's clients against the finished binary: an operator under controller-runtime's test environment, and client-go.
compat-quick:
	$(CARGO) build --package coracle
	conformance/clients/run.sh target/debug/coracle quick

# Objects of every kind as the Go types encode them: the file that protobuf is tested against is what the modules make of the tables.
golden:
	mkdir -p target/golden
	cd schema/testdata/golden && go run . ../../../api ../../../target/golden/golden.gz
	cmp <(zcat target/golden/golden.gz) <(zcat schema/testdata/golden.gz)

# Policies in Cedar: code that only builds with that feature have, and their tests. Its dependencies take minutes to compile.
cedar:
	$(CARGO) clippy --package coracle --package coracle-apiserver --all-targets --features cedar --quiet -- -D warnings
	$(CARGO) test --package coracle-apiserver --features cedar cedar

# All of it: also the Python client, kubectl of this machine and of Debian sid, and controller-runtime's own tests through the drop-in pair.
# COMPAT=DIR keeps what is downloaded and built.
test-compat: golden cedar
	deploy/needs.sh etcd-server:etcd openssl
	$(CARGO) build --package coracle --package coracle-conformance
	conformance/clients/run.sh target/debug/coracle all $(COMPAT)

# The tests that operators bring (kro, Karpenter, Flux, …) through the drop-in pair, counted against conformance/clients/suites/operators.
# COMPAT=DIR keeps what is downloaded and built: compiling them all takes hours on two cores.
test-operators:
	$(CARGO) build --package coracle
	conformance/clients/run.sh target/debug/coracle operators $(COMPAT)

# Upstream's own integration tests, with this binary in place of their server in the process, counted against
# conformance/clients/suites/integration.txt. COMPAT=DIR as above; compiling takes most of an hour.
test-upstream:
	deploy/needs.sh etcd-server:etcd openssl
	$(CARGO) build --package coracle
	conformance/clients/integration.sh target/debug/coracle $(if $(COMPAT),$(COMPAT)/upstream,target/upstream)

# kube-apiserver and this binary in turns on one etcd: each reads what the other wrote. LAB=FOLDER, where FOLDER/bin has etcd and kube-apiserver.
turns:
	$(CARGO) build --package coracle --package coracle-conformance
	target/debug/coracle-conformance store --binary target/debug/coracle --peer $(LAB)/bin/kube-apiserver --etcd $(LAB)/bin/etcd

# Figures of the finished binary. LAB=FOLDER, where FOLDER/bin has etcd and kube-apiserver, adds ratios against them.
bench:
	$(CARGO) bench --package coracle $(if $(PARTS),-- $(PARTS))

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

clean:
	$(CARGO) clean

# Runs every fuzz target for SECONDS; see fuzz/run.sh.
SECONDS_EACH ?= 60
fuzz:
	fuzz/run.sh $(SECONDS_EACH) $(TARGETS)
