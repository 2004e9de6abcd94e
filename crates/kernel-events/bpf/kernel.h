/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the programs need of the kernel's types and of the BPF helpers. Only the fields that are read are named; libbpf
 * finds their places in the running kernel by the relocations that preserve_access_index leaves.
 */
#ifndef KERNEL_H
#define KERNEL_H

struct task_struct;

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline
#define __uint(name, val) int(*name)[val]
#define __type(name, val) val *name

enum { BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_LRU_HASH = 9, BPF_MAP_TYPE_RINGBUF = 27 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RB_AVAIL_DATA = 0, BPF_RB_RING_SIZE = 1, BPF_RB_CONS_POS = 2, BPF_RB_PROD_POS = 3 };

/* Numbers of helpers: include/uapi/linux/bpf.h. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*bpf_probe_read_user)(void *dst, u32 size, const void *src) = (void *)112;
static long (*bpf_probe_read_kernel)(void *dst, u32 size, const void *src) = (void *)113;
static long (*bpf_probe_read_kernel_str)(void *dst, u32 size, const void *src) = (void *)115;
static u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;
static long (*bpf_ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
static u64 (*bpf_ringbuf_query)(void *ring, u64 flags) = (void *)134;

/* Reads one field of a structure, relocated. */
#define PROBE(dst, src) bpf_probe_read_kernel(&(dst), sizeof(dst), __builtin_preserve_access_index(&(src)))

/*
 * The same of what is reached by the kernel's own types from what the kernel gave. The verifier follows those since 5.5, so
 * that a load does, which costs a tenth of the call. Rules about pointers grew with each kernel: the programs are compiled
 * both ways, and the second one is for kernels that refuse the first.
 */
#ifdef DIRECT
#define READ(dst, src) __builtin_memcpy(&(dst), __builtin_preserve_access_index(&(src)), sizeof(dst))
static struct task_struct *(*current_task)(void) = (void *)158;
#else
#define READ(dst, src) PROBE(dst, src)
static struct task_struct *(*current_task)(void) = (void *)35;
#endif
#define INFO(field, kind) __builtin_preserve_field_info(field, kind)
#define HAS(field) __builtin_preserve_field_info(field, 2 /* BPF_FIELD_EXISTS */)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct qstr {
	const u8 *name;
};
struct super_block {
	u32 s_dev;
	unsigned long s_magic;
};
typedef struct {
	u32 val;
} kuid_t;
struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};
struct inode {
	u16 i_mode;
	kuid_t i_uid;
	struct super_block *i_sb;
	u32 i_rdev;
	unsigned long i_ino;
	u32 i_nlink;
	s64 i_size;
	u32 i_generation;
	/* The change time has had three names. */
	s64 i_ctime_sec;
	struct timespec64 __i_ctime;
};
struct inode___old {
	struct timespec64 i_ctime;
};
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};
struct vfsmount {
	struct dentry *mnt_root;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
};
struct fs_struct {
	struct path pwd;
};
struct fdtable {
	u32 max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};
struct mm_struct {
	unsigned long arg_start, arg_end, env_start, env_end;
	struct file *exe_file;
};
typedef struct {
	u64 val;
} kernel_cap_t;
struct ns_common {
	u32 inum;
};
struct user_namespace {
	struct user_namespace *parent;
	int level;
	kuid_t owner;
	struct ns_common ns;
};
struct cred {
	kuid_t uid, gid, suid, euid, egid, fsuid;
	kernel_cap_t cap_permitted, cap_effective;
	struct user_namespace *user_ns;
};
struct mnt_namespace {
	struct ns_common ns;
};
struct pid_namespace {
	struct user_namespace *user_ns;
	struct ns_common ns;
};
struct net {
	struct ns_common ns;
};
struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct pid_namespace *pid_ns_for_children;
	struct net *net_ns;
};
struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	u32 level;
	struct upid numbers[1];
};
typedef struct {
	int counter;
} atomic_t;
enum pid_type { PIDTYPE_PID, PIDTYPE_TGID, PIDTYPE_PGID, PIDTYPE_SID, PIDTYPE_MAX };
struct signal_struct {
	atomic_t live;
	struct pid *pids[PIDTYPE_MAX];
	int group_exit_code;
	u64 utime, stime;
	unsigned long maxrss;
};
struct kernfs_node {
	u64 id;
};
struct cgroup {
	struct kernfs_node *kn;
};
struct cgroup_subsys_state {
	struct cgroup *cgroup;
};
struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
};
struct task_struct {
	u32 flags;
	int pid, tgid;
	int exit_code;
	struct mm_struct *mm;
	struct task_struct *real_parent, *group_leader;
	u64 start_boottime;
	u64 utime, stime;
	const struct cred *real_cred, *cred;
	char comm[16];
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct pid *thread_pid;
	struct css_set *cgroups;
	kuid_t loginuid;
	u32 sessionid;
};
struct task_struct___5_4 {
	u64 real_start_time;
};
struct linux_binprm {
	u32 secureexec : 1;
	int argc, envc;
	const char *filename, *interp, *fdpath;
};
struct in6_addr {
	u8 bytes[16];
};
typedef struct {
	struct net *net;
} possible_net_t;
struct sock_common {
	u32 skc_daddr, skc_rcv_saddr;
	u16 skc_dport, skc_num;
	u16 skc_family;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	kuid_t sk_uid;
};
struct socket {
	struct sock *sk;
};
#pragma clang attribute pop

enum cgroup_subsys_id { pids_cgrp_id = 11 };

#endif
