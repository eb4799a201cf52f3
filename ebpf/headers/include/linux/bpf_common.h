/* Instruction classes that BCC's packet helpers name; user ABI, never changed. */
#define BPF_LD 0x00
#define BPF_W 0x00
#define BPF_H 0x08
#define BPF_B 0x10
#define BPF_IMM 0x00
#define BPF_ABS 0x20
#define BPF_IND 0x40
#define BPF_MEM 0x60
