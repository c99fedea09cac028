/* qemu-user plugin: counts executed aarch64 instructions, fp32/fp64 FMLA (by vector and by element) and 128-bit vector
 * loads, and prints one line on stderr at exit. Built and used by count.py; by hand:
 *   gcc -shared -fPIC -O2 -Wl,--unresolved-symbols=ignore-all insn_count_plugin.c -o insn_count.so
 *   qemu-aarch64 -cpu cortex-a76 -L /usr/aarch64-linux-gnu -plugin ./insn_count.so PROGRAM
 * Counts of a single-threaded program are exact and repeatable. Run it with N and with 2N repeats and subtract, to
 * leave start-up out; or, where runs of a program differ, let it write to file descriptor 1000, which does not exist:
 * each time a line with the counts so far is printed. The declarations below are the part of qemu's plugin interface
 * (version 1) that it needs: Debian ships no header. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*translate_callback)(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void (*exit_callback)(qemu_plugin_id_t, void*);
typedef void (*syscall_callback)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                 uint64_t, uint64_t, uint64_t);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translate_callback);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, exit_callback, void*);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_callback);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn*, enum qemu_plugin_op, void*, uint64_t);

EXPORT int qemu_plugin_version = 1;

enum { kWriteSyscall = 64, kMarkDescriptor = 1000 };

static uint64_t n_insns, n_fmla, n_vector_loads;

/* FMLA (vector) and FMLA (by element). */
static int is_fmla(uint32_t word) { return (word & 0xBFA0FC00) == 0x0E20CC00 || (word & 0xBF80F400) == 0x0F801000; }

/* LDR q with an unsigned offset, LDP q with a signed offset (one instruction counts once), LD1 without an offset. */
static int is_vector_load(uint32_t word) {
  return (word & 0x3FC00000) == 0x3DC00000 || (word & 0xFFC00000) == 0xAD400000 || (word & 0xBFFF0000) == 0x0C400000;
}

static void count_block(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
  (void)id;
  size_t n = qemu_plugin_tb_n_insns(block);
  for (size_t i = 0; i < n; i++) {
    struct qemu_plugin_insn* insn = qemu_plugin_tb_get_insn(block, i);
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(insn), sizeof word);
    qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &n_insns, 1);
    if (is_fmla(word)) qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &n_fmla, 1);
    if (is_vector_load(word))
      qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &n_vector_loads, 1);
  }
}

static void print_counts(qemu_plugin_id_t id, void* data) {
  (void)id;
  (void)data;
  fprintf(stderr, "insns %" PRIu64 " fmla %" PRIu64 " vecload %" PRIu64 "\n", n_insns, n_fmla, n_vector_loads);
}

static void print_marked(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t descriptor, uint64_t a2,
                         uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number == kWriteSyscall && descriptor == kMarkDescriptor) print_counts(id, NULL);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc, char** argv) {
  (void)info;
  (void)argc;
  (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, count_block);
  qemu_plugin_register_vcpu_syscall_cb(id, print_marked);
  qemu_plugin_register_atexit_cb(id, print_counts, NULL);
  return 0;
}
