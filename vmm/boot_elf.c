/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF vmlinux, 64 and 32 bits. The headers of both classes are read into the 64-bit structs.
 */
#include <elf.h>

#include "vmm/base/fd.h"
#include "vmm/boot_image.h"

#define PHDRS_MAX 64u

/* A PT_NOTE that is searched for the PVH entry; Linux has 512 bytes of notes. */
#define NOTES_MAX	 16384u
#define XEN_PHYS32_ENTRY 18u /* XEN_ELFNOTE_PHYS32_ENTRY, xen/include/public/elfnote.h */

struct elf {
	const struct boot_image *img;
	bool is64;
	Elf64_Ehdr h;
	unsigned phnum;
	Elf64_Phdr ph[PHDRS_MAX];
};

static const struct {
	unsigned machine;
	const char *name;
} machines[] = {
	{EM_386, "32-bit x86"}, {EM_ARM, "ARM"},   {EM_AARCH64, "aarch64"}, {EM_RISCV, "RISC-V"},
	{EM_PPC64, "POWER"},	{EM_S390, "s390"}, {EM_MIPS, "MIPS"},
};

static int wrong_machine(unsigned machine, struct err *e)
{
	const char *name = "another architecture";

	for (unsigned i = 0; i < ARRAY_SIZE(machines); i++)
		if (machines[i].machine == machine)
			name = machines[i].name;
	return err_set(e, EINVAL, "image is for %s (ELF machine %u), need x86-64", name, machine);
}

static void widen_ehdr(const Elf32_Ehdr *in, Elf64_Ehdr *out)
{
	memcpy(out->e_ident, in->e_ident, sizeof(out->e_ident));
	out->e_type = in->e_type;
	out->e_machine = in->e_machine;
	out->e_entry = in->e_entry;
	out->e_phoff = in->e_phoff;
	out->e_phentsize = in->e_phentsize;
	out->e_phnum = in->e_phnum;
}

static void widen_phdr(const Elf32_Phdr *in, Elf64_Phdr *out)
{
	out->p_type = in->p_type;
	out->p_offset = in->p_offset;
	out->p_vaddr = in->p_vaddr;
	out->p_paddr = in->p_paddr;
	out->p_filesz = in->p_filesz;
	out->p_memsz = in->p_memsz;
}

static int check_ident(const struct boot_image *img, struct err *e)
{
	const uint8_t *id = img->head;

	if (img->size < EI_NIDENT)
		return err_set(e, EINVAL, "ELF header is cut off: the file has %lu bytes",
			       img->size);
	if (id[EI_DATA] != ELFDATA2LSB)
		return err_set(e, EINVAL,
			       "ELF byte order at offset 5 is %u, need 1 (little-endian)",
			       id[EI_DATA]);
	if (id[EI_CLASS] != ELFCLASS64 && id[EI_CLASS] != ELFCLASS32)
		return err_set(e, EINVAL, "ELF class at offset 4 is %u, need 2 (64-bit)",
			       id[EI_CLASS]);
	return 0;
}

static int read_ehdr(struct elf *elf, struct err *e)
{
	const struct boot_image *img = elf->img;
	size_t len, phentsize;
	Elf32_Ehdr h32;

	elf->is64 = img->head[EI_CLASS] == ELFCLASS64;
	len = elf->is64 ? sizeof(elf->h) : sizeof(h32);
	phentsize = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	if (img->size < len)
		return err_set(e, EINVAL, "ELF header takes %zu bytes, the file has %lu", len,
			       img->size);
	memcpy(&h32, img->head, sizeof(h32));
	memcpy(&elf->h, img->head, sizeof(elf->h));
	if (!elf->is64)
		widen_ehdr(&h32, &elf->h);
	if (elf->h.e_machine != EM_X86_64 && (elf->is64 || elf->h.e_machine != EM_386))
		return wrong_machine(elf->h.e_machine, e);
	if (elf->h.e_type != ET_EXEC && elf->h.e_type != ET_DYN)
		return err_set(e, EINVAL, "ELF type at offset 16 is %u, need 2 (executable)",
			       elf->h.e_type);
	if (elf->h.e_phentsize != phentsize)
		return err_set(e, EINVAL, "ELF program headers are %u bytes each, need %zu",
			       elf->h.e_phentsize, phentsize);
	if (elf->h.e_phnum == 0 || elf->h.e_phnum > PHDRS_MAX)
		return err_set(e, EINVAL, "ELF has %u program headers, need 1 to %u",
			       elf->h.e_phnum, PHDRS_MAX);
	return 0;
}

static int read_phdrs(struct elf *elf, struct err *e)
{
	uint64_t off = elf->h.e_phoff, len = (uint64_t)elf->h.e_phnum * elf->h.e_phentsize;
	uint8_t raw[sizeof(elf->ph)];
	Elf32_Phdr ph32;
	int rc;

	if (!range_within(off, len, elf->img->size))
		return err_set(e, EINVAL,
			       "ELF program headers (%lu bytes at offset 0x%lx) go beyond the end "
			       "of the file (%lu bytes)",
			       len, off, elf->img->size);
	rc = fd_pread_full(elf->img->fd, raw, len, off);
	if (rc < 0)
		return err_set(e, -rc, "read ELF program headers at offset 0x%lx: %s", off,
			       strerror(-rc));
	elf->phnum = elf->h.e_phnum;
	for (unsigned i = 0; i < elf->phnum; i++) {
		if (elf->is64) {
			memcpy(&elf->ph[i], raw + i * sizeof(Elf64_Phdr), sizeof(Elf64_Phdr));
		} else {
			memcpy(&ph32, raw + i * sizeof(ph32), sizeof(ph32));
			widen_phdr(&ph32, &elf->ph[i]);
		}
	}
	return 0;
}

static int plan_segments(const struct elf *elf, struct boot_plan *plan, struct err *e)
{
	for (unsigned i = 0; i < elf->phnum; i++) {
		const Elf64_Phdr *p = &elf->ph[i];
		struct boot_segment s = {
			.offset = p->p_offset,
			.filesz = p->p_filesz,
			.memsz = p->p_memsz,
			.gpa = p->p_paddr,
		};

		if (p->p_type == PT_INTERP)
			return err_set(e, EINVAL,
				       "an ELF program for user space (header %u names an "
				       "interpreter), not a kernel",
				       i);
		if (p->p_type != PT_LOAD || (p->p_memsz == 0 && p->p_filesz == 0))
			continue;
		if (boot_plan_add(elf->img, plan, &s, e) < 0)
			return err_wrap(e, "ELF program header %u at offset 0x%lx", i,
					elf->h.e_phoff + (uint64_t)i * elf->h.e_phentsize);
	}
	return plan->count ? 0 : err_set(e, EINVAL, "ELF has no segment to load");
}

/* Address of an instruction in the file's bytes of a segment that starts at `start`. */
static bool in_segment(const Elf64_Phdr *p, uint64_t start, uint64_t entry)
{
	return p->p_type == PT_LOAD && entry >= start && entry - start < p->p_filesz;
}

/* Physical address for e_entry. vmlinux has it physical; other linkers leave it virtual. */
static bool find_entry(const struct elf *elf, gpa_t *entry)
{
	uint64_t want = elf->h.e_entry;

	for (unsigned i = 0; want && i < elf->phnum; i++)
		if (in_segment(&elf->ph[i], elf->ph[i].p_paddr, want)) {
			*entry = want;
			return true;
		}
	for (unsigned i = 0; want && i < elf->phnum; i++)
		if (in_segment(&elf->ph[i], elf->ph[i].p_vaddr, want)) {
			*entry = elf->ph[i].p_paddr + (want - elf->ph[i].p_vaddr);
			return true;
		}
	return false;
}

/*
 * Looks for the note {namesz 4, descsz 4 or 8, type 18, "Xen\0", address}. Name and description
 * are padded to 4 bytes each. False also when the notes are cut off or nonsense.
 */
static bool find_note(const uint8_t *buf, size_t len, uint64_t *entry)
{
	size_t at = 0;
	Elf64_Nhdr n;

	while (len - at >= sizeof(n)) {
		uint64_t name, desc;

		memcpy(&n, buf + at, sizeof(n));
		at += sizeof(n);
		name = align_up(n.n_namesz, 4);
		desc = align_up(n.n_descsz, 4);
		if (name > len - at || desc > len - at - name)
			return false;
		if (n.n_type == XEN_PHYS32_ENTRY && n.n_namesz == 4 &&
		    !memcmp(buf + at, "Xen", 4) && (n.n_descsz == 4 || n.n_descsz == 8)) {
			*entry = 0;
			memcpy(entry, buf + at + name, n.n_descsz);
			return true;
		}
		at += name + desc;
	}
	return false;
}

/* 1 with *entry when there is a PVH note, 0 when there is none, -errno. */
static int read_pvh_note(const struct elf *elf, uint64_t *entry, struct err *e)
{
	uint8_t buf[NOTES_MAX];

	for (unsigned i = 0; i < elf->phnum; i++) {
		const Elf64_Phdr *p = &elf->ph[i];
		int rc;

		if (p->p_type != PT_NOTE)
			continue;
		if (p->p_filesz > sizeof(buf) ||
		    !range_within(p->p_offset, p->p_filesz, elf->img->size))
			return err_set(e, EINVAL,
				       "ELF program header %u: notes of %lu bytes at offset 0x%lx, "
				       "need at most %u within the file's %lu",
				       i, p->p_filesz, p->p_offset, NOTES_MAX, elf->img->size);
		rc = fd_pread_full(elf->img->fd, buf, p->p_filesz, p->p_offset);
		if (rc < 0)
			return err_set(e, -rc, "read ELF notes at offset 0x%lx: %s", p->p_offset,
				       strerror(-rc));
		if (find_note(buf, p->p_filesz, entry))
			return 1;
	}
	return 0;
}

static int plan_pvh(const struct elf *elf, struct boot_plan *plan, struct err *e)
{
	int rc = read_pvh_note(elf, &plan->entry, e);

	if (rc < 0)
		return rc;
	if (rc == 0 && !elf->is64)
		return err_set(e, EINVAL,
			       "32-bit ELF without a PVH entry note; need x86-64 or a PVH kernel");
	if (rc == 0)
		return err_set(e, EINVAL,
			       "ELF entry point 0x%lx is in no segment, and there is no PVH note",
			       elf->h.e_entry);
	for (unsigned i = 0; i < elf->phnum; i++)
		if (in_segment(&elf->ph[i], elf->ph[i].p_paddr, plan->entry)) {
			plan->format = BOOT_ELF_PVH;
			return 0;
		}
	return err_set(e, EINVAL, "PVH entry point 0x%lx is in no segment", plan->entry);
}

int boot_elf_probe(const struct boot_image *img, struct boot_plan *plan, struct err *e)
{
	struct elf elf = {.img = img};
	int rc = check_ident(img, e);

	if (rc == 0)
		rc = read_ehdr(&elf, e);
	if (rc == 0)
		rc = read_phdrs(&elf, e);
	if (rc == 0)
		rc = plan_segments(&elf, plan, e);
	if (rc < 0)
		return rc;
	/* Linux maps what is below 4 GiB before it reads the initrd; there is no header to say less. */
	plan->initrd_max = UINT32_MAX;
	plan->cmdline_max = LAYOUT_CMDLINE_MAX - 1;
	plan->format = BOOT_ELF64;
	if (elf.is64 && find_entry(&elf, &plan->entry))
		return 0;
	return plan_pvh(&elf, plan, e);
}
