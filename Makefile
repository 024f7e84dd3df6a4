# Kalsae: make help

PREFIX ?= /usr/local
DESTDIR ?=
ARGUMENTS ?=
SECONDS ?= 600
KALSAE = .build/release/kalsae
PYTHON = /usr/bin/python3

.DEFAULT_GOAL := help
.PHONY: help build demo test sanitize fuzz bench install uninstall format lint clean
.NOTPARALLEL:

help:
	@printf '%s\n' \
	  'Kalsae: a node'"'"'s network data plane in user space.' \
	  '' \
	  '  make build      release build: $(KALSAE)' \
	  '  make demo       build, then two nodes in namespaces that carry real traffic (needs root)' \
	  '  make test       everything that proves Kalsae right; ends with the counts (root for the live tests)' \
	  '  make sanitize   the tests under AddressSanitizer and ThreadSanitizer' \
	  '  make fuzz       arbitrary input for the parsers and the pipeline, SECONDS=$(SECONDS)' \
	  '  make bench      build, then the scenarios in bench/; results in bench/results' \
	  '  make install    into PREFIX=$(PREFIX): program, man page, shell completions' \
	  '  make uninstall  takes them away again' \
	  '  make format     puts the sources into the house format' \
	  '  make lint       says where they are not' \
	  '  make clean      removes what was built' \
	  '' \
	  'ARGUMENTS="…" is handed on to the program that demo, bench or test run.'

build:
	@echo "[1/2] what Debian must give…"
	@tools/bootstrap
	@echo "[2/2] building the release (the first time takes some minutes)…"
	@swift build -c release
	@echo "built: $(KALSAE)"

demo:
	@echo "[1/3] what Debian must give…"
	@tools/bootstrap --demo
	@echo "[2/3] building the release (the first time takes some minutes)…"
	@swift build -c release
	@echo "[3/3] $(KALSAE) demo $(ARGUMENTS)"
	@exec $(KALSAE) demo $(ARGUMENTS)

test:
	@tools/bootstrap --test
	@exec $(PYTHON) tools/run-tests $(ARGUMENTS)

sanitize:
	@tools/bootstrap --test
	@echo "[1/2] the tests under AddressSanitizer…"
	@# What lives until the end of a process is no leak to Swift's runtime, but one to LeakSanitizer.
	@KALSAE_DYNAMIC=1 ASAN_OPTIONS=detect_leaks=0 swift test --disable-xctest --sanitize=address --scratch-path .build-address --skip '^ReleaseTests' $(ARGUMENTS)
	@echo "[2/2] the tests under ThreadSanitizer…"
	@KALSAE_DYNAMIC=1 TSAN_OPTIONS="suppressions=$(CURDIR)/tools/thread-sanitizer.suppressions" \
	swift test --disable-xctest --sanitize=thread --scratch-path .build-thread --skip '^ReleaseTests' $(ARGUMENTS)

fuzz:
	@tools/bootstrap --test
	@exec $(PYTHON) tools/fuzz --seconds $(SECONDS) $(ARGUMENTS)

bench:
	@echo "[1/3] what Debian must give…"
	@tools/bootstrap --test
	@echo "[2/3] building the release…"
	@swift build -c release
	@echo "[3/3] bench/run $(ARGUMENTS)"
	@exec bench/run $(ARGUMENTS)

install:
	@test -x $(KALSAE) || { echo "error: $(KALSAE) is not there: run 'make build' first" >&2; exit 1; }
	@tools/install "$(KALSAE)" "$(DESTDIR)$(PREFIX)"

uninstall:
	@tools/install --remove "$(DESTDIR)$(PREFIX)"

format:
	swift format --in-place --recursive --parallel Package.swift Sources Tests

lint:
	swift format lint --recursive --strict --parallel Package.swift Sources Tests

clean:
	rm -rf .build .build-fuzz .build-address .build-thread
