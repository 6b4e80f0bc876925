# SPDX-License-Identifier: Apache-2.0
#
# make            build/spore
# make demo       install what is missing, build, and take the tour: boot, exec, snapshot, ten clones
# make check      install what is missing, build, run every test
# make help       the other targets
#
# One file, not recursive. Everything goes below build/. Packages come from tools/install-packages;
# SKIP_DEPS=1 trusts you to have them. lwIP's source comes from tools/fetch-lwip, once.

VERSION := 0.1.0
PREFIX  ?= /usr/local
CC      := gcc
CLANG   := clang
B       := build

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# --- sources ---

SRC       := $(wildcard vmm/base/*.c virtio/*.c vmm/*.c snapshot/*.c api-sock/*.c)
# jailer/ is two programs and a tool of the build: what spore has of it, and what spore-jailer is.
SRC_SECCOMP := jailer/seccomp.c jailer/bpf.c jailer/custom.c
SRC_JAILER  := $(filter-out $(SRC_SECCOMP) jailer/filters.c jailer/compile.c,$(wildcard jailer/*.c)) \
	vmm/base/err.c vmm/base/fd.c vmm/base/help.c vmm/base/hint.c
SRC       += $(SRC_SECCOMP)
SRC_GEN   := $(B)/gen/filters.c
SRC_LIB   := $(filter-out vmm/main.c,$(SRC)) $(SRC_GEN)
SRC_CTL   := $(wildcard ctl/*.c) vmm/base/err.c vmm/base/fd.c vmm/base/help.c vmm/base/hint.c
SRC_TEST  := $(wildcard tests/test_*.c tests/lib/*.c)
SRC_FUZZ  := $(wildcard tests/fuzz/fuzz_*.c)
SRC_BENCH := $(wildcard tests/bench/*.c)
GUESTS    := $(patsubst tests/guest/%.S,$(B)/guest/%.elf,$(wildcard tests/guest/*.S))
FORMATTED := $(wildcard vmm/base/*.[ch] virtio/*.[ch] vmm/*.[ch] snapshot/*.[ch] api-sock/*.[ch] \
	virtio/lwip/*.h virtio/lwip/arch/*.h ctl/*.[ch] \
	jailer/*.[ch] tests/*.[ch] tests/lib/*.[ch] tests/attack/*.[ch] tests/fuzz/*.[ch] tests/bench/*.[ch])

# The guest's agent; sporectl shares the protocol with it.
SRC_AGENT := $(wildcard ctl/agent/*.c)
SRC_PROTO := ctl/agent/frame.c ctl/agent/copy.c
SRC_CTL   += $(SRC_PROTO)
# The pool is served as spore is.
SRC_CTL   += api-sock/server.c api-sock/listener.c vmm/http.c vmm/base/loop.c vmm/base/log.c
FORMATTED += $(wildcard ctl/agent/*.[ch])

# lwIP, from Debian's source package: what TCP over IPv4 needs of it, and the one file that uses it.
LWIP      := $(B)/lwip
SRC_LWIP  := $(addprefix lwip/,def inet_chksum init ip mem memp netif pbuf tcp tcp_in tcp_out \
	ipv4/ip4 ipv4/ip4_addr)
HDR_LWIP  := $(wildcard virtio/lwip/*.h virtio/lwip/arch/*.h)
USES_LWIP := virtio/mmdsnet

# --- flags ---

WARN := -Wall -Wextra -Werror -Wconversion -Wsign-conversion -Wshadow -Wswitch-enum -Wvla \
	-Wmissing-prototypes
CPP  := -I. -DSPORE_VERSION='"$(VERSION)"' -MMD -MP
CFL  := -std=gnu17 -g $(WARN)

# llhttp where the distribution has it (Debian 13), else its predecessor http-parser (Debian 12).
# Asked for in the recipes, since the packages may be installed by this very run.
HTTP_CPP = $(shell pkg-config --exists libllhttp 2>/dev/null && echo -DSPORE_LLHTTP)
HTTP_LIB = $(shell pkg-config --exists libllhttp 2>/dev/null && echo -lllhttp || echo -lhttp_parser)
LWIP_CPP := -isystem $(LWIP)/src/include -isystem virtio/lwip
LIBS     = -ljansson $(HTTP_LIB) -luring -lxxhash -lpthread

HARDEN_C := -O2 -fPIE -fstack-protector-strong -D_FORTIFY_SOURCE=2 -fcf-protection \
	-ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables
HARDEN_L := -static-pie -Wl,-z,relro,-z,now,-z,noexecstack,-z,pack-relative-relocs -Wl,--gc-sections -Wl,--build-id
# build/spore is linked with musl: a third of glibc's size, and glibc asks the processor 43 times who
# it is at each start, which costs 4 us each time where the host is virtual itself. The same
# sources compiled with glibc are tested, so the warnings about ioctl()'s int are not wanted here.
SYS      := $(B)/sys
MUSL     := musl-gcc
MUSL_C   := $(filter-out -D_FORTIFY_SOURCE=2,$(HARDEN_C)) -isystem $(SYS)/include \
	-Wno-conversion -Wno-sign-conversion -Wno-overflow
# Not with musl-gcc, which links position-independent programs dynamically.
MUSL_DIR := /usr/lib/x86_64-linux-musl
MUSL_L    = $(CC) -static-pie -nostdlib -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--gc-sections -Wl,--build-id \
	$(MUSL_DIR)/rcrt1.o $(MUSL_DIR)/crti.o $(1) $(SYS)/libdeps.a \
	-Wl,--start-group $(MUSL_DIR)/libc.a -lgcc -Wl,--end-group $(MUSL_DIR)/crtn.o
# -DSPORE_NO_SECCOMP: the runtimes of sanitizers and coverage make system calls of their own.
SAN      := -O1 -DSPORE_NO_SECCOMP -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ     := -O1 -DSPORE_NO_SECCOMP -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all

# --- packages ---

DEPS := $(if $(SKIP_DEPS),,$(B)/.packages)

$(B)/.packages: tools/install-packages
	@mkdir -p $(@D)
	tools/install-packages
	@touch $@

# --- objects: one rule for each variant ---
# $(1) directory, $(2) compiler, $(3) flags

$(LWIP)/.done: tools/fetch-lwip | $(DEPS)
	@tools/fetch-lwip $(LWIP)
	@touch $@

define VARIANT
$(1)/%.o: %.c | $(DEPS) $(4)
	@mkdir -p $$(@D)
	@echo "  CC $$@"
	@$(2) $(CFL) $(3) $$(CPP) $(if $(4),,$$(HTTP_CPP)) -c $$< -o $$@

$(USES_LWIP:%=$(1)/%.o): CPP += $(LWIP_CPP)
$(USES_LWIP:%=$(1)/%.o): $(HDR_LWIP) | $(LWIP)/.done

$(1)/lwip/%.o: $(LWIP)/.done $(HDR_LWIP) | $(4)
	@mkdir -p $$(@D)
	@echo "  CC $$@"
	@$(2) -std=gnu17 -g -w $(3) $(if $(findstring sanitize,$(3)),,-Os) $(LWIP_CPP) \
		-c $(LWIP)/src/core/$$*.c -o $$@
endef

$(SYS)/libdeps.a: tools/build-libs | $(DEPS)
	@echo "  LIBS $@"
	@tools/build-libs $(SYS) $(filter-out -isystem $(SYS)/include,$(MUSL_C))

$(eval $(call VARIANT,$(B)/obj,$(CC),$(HARDEN_C)))
$(eval $(call VARIANT,$(B)/musl,$(MUSL),$(MUSL_C),$(SYS)/libdeps.a))
$(eval $(call VARIANT,$(B)/asan,$(CC),$(SAN)))
$(eval $(call VARIANT,$(B)/fuzzobj,$(CLANG),$(FUZZ)))

OBJ      := $(patsubst %.c,$(B)/musl/%.o,$(SRC) $(SRC_GEN)) $(SRC_LWIP:%=$(B)/musl/%.o)
LIB_OBJ  := $(patsubst %.c,$(B)/obj/%.o,$(SRC_LIB)) $(SRC_LWIP:%=$(B)/obj/%.o)
ASAN_OBJ := $(patsubst %.c,$(B)/asan/%.o,$(SRC) $(SRC_GEN)) $(SRC_LWIP:%=$(B)/asan/%.o)
ASAN_LIB := $(patsubst %.c,$(B)/asan/%.o,$(SRC_LIB)) $(SRC_LWIP:%=$(B)/asan/%.o)

# --- seccomp filters: from the table to BPF, when spore is built ---

$(B)/jailer-compile: $(B)/obj/jailer/compile.o $(B)/obj/jailer/filters.o
	@echo "  LD $@"
	@$(CC) $^ -lseccomp -o $@

$(B)/gen/filters.c: $(B)/jailer-compile
	@mkdir -p $(@D)
	@$< >$@

# --- programs ---

.PHONY: all asan
all: $(B)/spore $(B)/spore-jailer $(B)/spore-overlay $(B)/spore-snapshot $(B)/sporectl
asan: $(B)/asan/spore $(B)/asan/unit

$(B)/spore: $(OBJ)
	@echo "  LD $@"
	@$(call MUSL_L,$^) -o $@.debug
	@strip --strip-all $@.debug -o $@

$(B)/spore-jailer: $(SRC_JAILER:%.c=$(B)/obj/%.o)
	@echo "  LD $@"
	@$(CC) $(HARDEN_L) $^ -lcap-ng -o $@.debug
	@strip --strip-all $@.debug -o $@

$(B)/spore-overlay: $(patsubst %.c,$(B)/obj/%.o,tools/spore-overlay.c virtio/overlay.c \
		vmm/base/err.c vmm/base/fd.c)
	@echo "  LD $@"
	@$(CC) $(HARDEN_L) $^ -o $@.debug
	@strip --strip-all $@.debug -o $@

$(B)/spore-snapshot: $(B)/obj/tools/spore-snapshot.o $(B)/obj/tools/snapshot-pack.o $(LIB_OBJ)
	@echo "  LD $@"
	@$(CC) $(HARDEN_L) $^ $(LIBS) -lzstd -o $@.debug
	@strip --strip-all $@.debug -o $@

# Not static: a person's tool, and libcurl, which it loads when it makes a request, brings two dozen
# libraries.
$(B)/sporectl: $(SRC_CTL:%.c=$(B)/obj/%.o)
	@echo "  LD $@"
	@$(CC) -pie $(filter-out -static-pie,$(HARDEN_L)) $^ -ljansson $(HTTP_LIB) -o $@.debug
	@strip --strip-all $@.debug -o $@

# For guests: small, and without libraries, so that it runs in any.
AGENT_C := -isystem $(SYS)/include -Os -fno-pie -fno-asynchronous-unwind-tables -fstack-protector-strong \
	-ffunction-sections -fdata-sections -Wno-conversion -Wno-sign-conversion -Wno-overflow
$(eval $(call VARIANT,$(B)/agent,$(MUSL),$(AGENT_C),$(SYS)/libdeps.a))

all: $(B)/spore-agent
$(B)/spore-agent: $(SRC_AGENT:%.c=$(B)/agent/%.o)
	@echo "  LD $@"
	@$(MUSL) -static -no-pie -Wl,--gc-sections -Wl,--build-id $^ -o $@.debug
	@strip --strip-all $@.debug -o $@

$(B)/asan/spore: $(ASAN_OBJ)
	@echo "  LD $@"
	@$(CC) $(SAN) $^ $(LIBS) -o $@

# --- tests ---

# spore with an attacker inside: only for the tests of the filters.
$(eval $(call VARIANT,$(B)/attack,$(MUSL),$(MUSL_C) -DSPORE_ATTACK,$(SYS)/libdeps.a))
ATTACKED := vmm/main.c vmm/vcpu.c
ATTACKER := tests/attack/attack.c tests/attack/judge.c jailer/filters.c

$(B)/attack/spore: $(ATTACKED:%.c=$(B)/attack/%.o) $(ATTACKER:%.c=$(B)/attack/%.o) \
		$(filter-out $(ATTACKED:%.c=$(B)/musl/%.o),$(OBJ))
	@echo "  LD $@"
	@$(call MUSL_L,$^) -o $@

UNIT_SRC := $(SRC_TEST) tests/attack/judge.c jailer/filters.c jailer/args.c jailer/tree.c
UNIT_SRC += $(SRC_PROTO) $(filter-out ctl/main.c,$(wildcard ctl/*.c))

$(B)/unit: $(UNIT_SRC:%.c=$(B)/obj/%.o) $(LIB_OBJ)
	@echo "  LD $@"
	@$(CC) $^ $(LIBS) -lcriterion -o $@

$(B)/asan/unit: $(UNIT_SRC:%.c=$(B)/asan/%.o) $(ASAN_LIB)
	@echo "  LD $@"
	@$(CC) $(SAN) $^ $(LIBS) -lcriterion -o $@

# In the place of spore in a jail: tries to get out.
$(B)/attack/inmate: $(B)/obj/tests/attack/inmate.o
	@mkdir -p $(@D)
	@echo "  LD $@"
	@$(CC) $(HARDEN_L) $^ -o $@

# Guests of a few instructions: 64-bit ELF files linked at 1 MiB, or for 1 MiB of memory at 256 KiB.
$(B)/guest/%.elf: tests/guest/%.S | $(DEPS)
	@mkdir -p $(@D)
	@echo "  GUEST $@"
	@$(CC) -nostdlib -static -Wl,-N,-Ttext=$(if $(filter low,$*),0x40000,0x100000),-e,start,--build-id=none,--no-warn-rwx-segments \
		-Itests/guest $< -o $@

.PHONY: check unit tiny e2e check-files
JAILED := $(B)/spore-jailer $(B)/spore-snapshot $(B)/attack/spore $(B)/attack/inmate
check: all man web $(B)/unit $(B)/asan/unit $(B)/asan/spore $(JAILED) $(GUESTS)
	tests/run-all

unit: $(B)/unit $(GUESTS)
	$(B)/unit

e2e: all $(JAILED) $(GUESTS)
	tests/run-all tiny api linux

# --- fuzzing: make fuzz [FUZZ_SECONDS=60] ---

FUZZ_SECONDS ?= 60
FUZZERS := $(SRC_FUZZ:tests/fuzz/%.c=$(B)/fuzz/%)

$(B)/fuzz/fuzz_agent: $(patsubst %.c,$(B)/fuzzobj/%.o,$(SRC_PROTO) ctl/session.c)
$(B)/fuzz/fuzz_pool: $(B)/fuzzobj/ctl/pool_claim.o
$(B)/fuzz/%: $(B)/fuzzobj/tests/fuzz/%.o $(SRC_LIB:%.c=$(B)/fuzzobj/%.o) \
		$(SRC_LWIP:%=$(B)/fuzzobj/%.o) \
		$(patsubst %.c,$(B)/fuzzobj/%.o,$(wildcard tests/lib/*.c))
	@mkdir -p $(@D)
	@echo "  LD $@"
	@$(CLANG) -fsanitize=fuzzer,address,undefined $^ $(LIBS) -o $@

.PHONY: fuzz
fuzz: $(FUZZERS)
	@for f in $(FUZZERS); do \
		echo "== $$f"; mkdir -p $$f.corpus; \
		$$f -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 $$f.corpus || exit 1; \
	done

# --- checks that need no run ---

.PHONY: layers format format-check tidy shellcheck
layers:
	@tools/check-layers $(SRC) $(wildcard ctl/*.[ch] jailer/*.[ch] vmm/base/*.h virtio/*.h vmm/*.h snapshot/*.h api-sock/*.h)

format: | $(DEPS)
	@clang-format -i $(FORMATTED)

format-check: | $(DEPS)
	@clang-format --dry-run --Werror $(FORMATTED)

tidy: | $(DEPS) $(LWIP)/.done
	@printf '%s\n' $(SRC) | xargs -n 1 -P 2 sh -c \
		'clang-tidy --quiet "$$0" -- -std=gnu17 -I. -DSPORE_VERSION=\"$(VERSION)\" $(HTTP_CPP) $(LWIP_CPP)'

# --- benchmark and demo ---

# Linked as spore is, and of nothing but themselves; two measure parts of spore.
$(B)/bench/jail: $(B)/obj/$(B)/gen/filters.o
$(B)/bench/policy: $(patsubst %,$(B)/obj/%.o,vmm/base/err vmm/base/fd virtio/netflow virtio/netframe vmm/base/random \
	virtio/netguard virtio/netpolicy virtio/netrewrite virtio/nettap)
$(B)/bench/%: $(B)/obj/tests/bench/%.o
	@mkdir -p $(@D)
	@echo "  LD $@"
	@$(CC) $(HARDEN_L) $^ -o $@

.PHONY: bench demo
bench: $(B)/spore $(B)/spore-jailer $(B)/sporectl $(B)/spore-agent $(SRC_BENCH:tests/bench/%.c=$(B)/bench/%) $(GUESTS)
	tests/bench/run

demo: $(B)/spore $(B)/sporectl $(B)/spore-agent
	tests/demo

# --- documentation ---

DOCDIR    := $(PREFIX)/share/doc/spore
MAN_PAGES := $(patsubst docs/man/%.scd,$(B)/man/%,$(wildcard docs/man/*.scd))

.PHONY: man web
man: $(MAN_PAGES)
web: $(B)/web/api.html

$(B)/web/api.html: api-sock/openapi.yaml tools/api-page
	@mkdir -p $(@D)
	@echo "  WEB $@"
	@tools/api-page $@

# What @NAME in the source stands for, the programs are asked for.
$(B)/man/%: docs/man/%.scd tools/man-page $(B)/spore $(B)/spore-jailer $(B)/sporectl \
		$(B)/spore-overlay $(B)/spore-snapshot
	@mkdir -p $(@D)
	@echo "  MAN $@"
	@tools/man-page $< $(B) $(DOCDIR) >$@.scd
	@scdoc <$@.scd >$@

# --- install ---

.PHONY: install clean help
install: all man web
	install -D -m 0755 $(B)/spore $(DESTDIR)$(PREFIX)/bin/spore
	install -D -m 0755 $(B)/spore-jailer $(DESTDIR)$(PREFIX)/bin/spore-jailer
	install -D -m 0755 $(B)/spore-overlay $(DESTDIR)$(PREFIX)/bin/spore-overlay
	install -D -m 0755 $(B)/spore-snapshot $(DESTDIR)$(PREFIX)/bin/spore-snapshot
	install -D -m 0755 $(B)/sporectl $(DESTDIR)$(PREFIX)/bin/sporectl
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man1 $(MAN_PAGES)
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(B)/sporectl completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/sporectl
	install -D -m 0644 ctl/completion.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_sporectl
	install -D -m 0644 LICENSE $(DESTDIR)$(DOCDIR)/LICENSE
	install -D -m 0644 README.md $(DESTDIR)$(DOCDIR)/README.md
	install -D -m 0755 $(B)/spore-agent $(DESTDIR)$(PREFIX)/lib/spore/spore-agent
	install -D -m 0755 tools/build-kernel $(DESTDIR)$(PREFIX)/lib/spore/build-kernel
	install -D -m 0644 tests/guest/minimal.config $(DESTDIR)$(PREFIX)/lib/spore/minimal.config
	install -D -m 0644 api-sock/openapi.yaml $(DESTDIR)$(DOCDIR)/openapi.yaml
	install -D -m 0644 $(B)/web/api.html $(DESTDIR)$(DOCDIR)/api.html

# The package, with a copy of debian/ so that nothing is written beside the sources; deb-check runs
# it on a clean Debian, which takes two minutes and a network.
.PHONY: deb deb-check
deb: all man web
	$(if $(SKIP_DEPS),,tools/install-packages --pack)
	@test "$$(dpkg-parsechangelog -S Version)" = $(VERSION) || \
		{ echo "debian/changelog is not of version $(VERSION)" >&2; exit 1; }
	rm -rf $(B)/deb
	mkdir -p $(B)/deb/tree
	cp -r debian $(B)/deb/tree
	cd $(B)/deb/tree && SPORE_TOP=$(CURDIR) env -u MAKEFLAGS dpkg-buildpackage -b -us -uc
	lintian --fail-on error,warning --display-info $(B)/deb/*.deb

deb-check: deb $(GUESTS)
	tests/run-all deb

clean:
	rm -rf $(B)

help:
	@echo "all           spore, spore-jailer, sporectl, spore-overlay, spore-snapshot"
	@echo "demo          the tour: boot, exec, snapshot, ten clones"
	@echo "check         every test but the longest suites; tests/run-all says more"
	@echo "unit, e2e     only the unit tests; only those with guests"
	@echo "asan, fuzz    builds with the sanitizers; the fuzz targets"
	@echo "layers, format, format-check, tidy    what is looked at in the sources"
	@echo "bench         what a start costs, with a report: build/bench/report.html"
	@echo "man, web      man pages; the API's reference as a page: build/web/api.html"
	@echo "deb, install  a Debian package; copies to PREFIX ($(PREFIX))"
	@echo "deb-check     the package on a clean Debian"
	@echo "clean         removes build/"
	@echo "SKIP_DEPS=1 installs no packages; -j2 compiles two files at a time."

-include $(shell find $(B) -path $(B)/cache -prune -o -name '*.d' -type f -print 2>/dev/null)
