/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What runs and what connects, told by the kernel's own tracepoints.
 *
 * A record is put together in memory of the processor and copied into the ring. The ring wakes its reader only when
 * there is much to read; the reader looks by itself ten times a second. What finds no room is counted by kind, and by
 * whether it was of the trusted.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

enum kind { EXEC = 1, EXIT = 2, NET = 3, FORK = 4, KINDS = 5 };

/* Set before loading. */
const volatile u32 wanted = 0xffffffff; /* one bit for each kind */
const volatile u32 wake_bytes = 256 * 1024;
const volatile u32 argument_bytes = 4096; /* at most 4096 */
const volatile u32 environment_bytes = 4096; /* at most 4096 */
const volatile u32 host_net = 0; /* number of the first process's network namespace, 0 when not known */

#define NAME_BYTES 1024
#define PATH_BYTES 2048
/* The same, of those who have too much in the ring; what is not the end of a path is left out. */
#define SHORT_NAME_BYTES 256
#define SHORT_PATH_BYTES 768
#define SHORT_CWD_BYTES 384
#define SHORT_ARGUMENT_BYTES 256
#define COMPONENTS 32
#define LONG_BYTES 4096
/* Component lengths end below 256. */
#define DATA_BYTES (16384 + 256)

struct identity {
	u64 start, parent_start;
	u32 tgid, tid, ppid, pgid, sid;
	u32 uid, gid, euid, egid, suid, fsuid;
	u32 loginuid, sessionid;
	u32 mnt_ns, pid_ns, net_ns, user_ns;
	u32 dev; /* of the executable, as the kernel writes numbers of devices */
	u64 inode;
	u64 cap_effective, cap_permitted;
	u64 cgroup_v2, cgroup_v1;
	u8 comm[16];
	/* The nearest ancestor that runs a program of its own. */
	u64 maker_start;
	u32 maker;
	u32 exe_links; /* names that the executable has at this moment */
};

/*
 * Whose record it is. What each takes of the ring is bounded, so that nobody's load costs the records of others:
 * 0 is trusted, a number below 2^32 is a user, a larger one none of the host's users.
 */
#define TRUSTED 0
#define CONTAINER (1ULL << 32) /* and the number of its pid namespace, where it has one */
#define HELPERS (2ULL << 32) /* what the kernel runs for whoever makes it, such as a handler of core dumps */
#define PEERS (3ULL << 32) /* whoever connects to a listening socket */
/* All but the trusted together; of the map only. */
#define OTHERS (4ULL << 32)

struct head {
	u32 kind;
	u32 bytes;
	u64 time; /* nanoseconds since the start of the host, sleep included */
	u64 account;
};

/*
 * The files of a new program that are looked at: the standard ones, and the descriptors by which shells name a script
 * that is none: the first free one, and the highest of a small table (`bash <(command)`). They are read here because a
 * short script is over before a reader comes to look.
 */
enum { FILES = 5 };

struct exec_record {
	struct head head;
	struct identity who;
	s64 size, change_seconds;
	u64 filesystem;
	u32 mode, owner, links, generation;
	u32 argc, argument_bytes, environment_bytes, old_tid;
	u32 secure, has_fdpath;
	u32 fd_mode[FILES], fd_family[FILES];
	u64 fd_inode[FILES];
	/* How many bytes of the data each text takes, in this order. */
	u32 filename, path, cwd, arguments, environment;
	u32 cut; /* 1: path, 2: cwd */
	u8 data[DATA_BYTES];
	/* Not sent. What is read back from memory is any number to the verifier, so that a loop's rounds look alike to it. */
	u32 cursor;
};

struct exit_record {
	struct head head;
	u64 start;
	u32 tgid, uid, euid, code;
	u64 user_ns, system_ns, resident_pages;
};

struct net_record {
	struct head head;
	u64 socket;
	u32 net_ns;
	u16 family, old_state, new_state, local_port, remote_port;
	u8 named, padding;
	u8 local[16], remote[16];
	struct identity who; /* only sent of what is named: CLOSE to SYN_SENT and CLOSE to LISTEN */
};

/* The reader (record.rs) counts on these places. */
_Static_assert(sizeof(struct identity) == 160, "identity");
_Static_assert(__builtin_offsetof(struct exec_record, data) == 352, "exec_record");
_Static_assert(sizeof(struct exit_record) == 72, "exit_record");
_Static_assert(__builtin_offsetof(struct net_record, who) == 80, "net_record");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} ring SEC(".maps");

struct counters {
	u64 sent[KINDS], lost_of_trusted[KINDS], lost_of_others[KINDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct exec_record);
} scratch SEC(".maps");

/*
 * Whether the reader is woken: when what waits for it passes a multiple of the watermark. To wake it for every record
 * while it is behind would cost more than the records. Between two processors nobody may be the one that passes, so all
 * wake it who find not much more than a multiple, and no record is so long that it leaps over that.
 */
INLINE u64 wakes(u64 waits)
{
	return waits >= wake_bytes && waits % wake_bytes <= sizeof(struct exec_record) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

/*
 * What an account has in the ring, at most: `before` and `now` are what it wrote before and since `mark`, a place in the
 * ring. Once the reader is behind that place, all that was before it is read.
 */
struct share {
	u64 mark, before, now;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, struct share);
} shares SEC(".maps");

INLINE struct share *share_of(u64 account)
{
	struct share *share = bpf_map_lookup_elem(&shares, &account);

	if (!share) {
		struct share fresh = {};

		bpf_map_update_elem(&shares, &account, &fresh, 0);
		share = bpf_map_lookup_elem(&shares, &account);
		if (!share)
			return 0;
	}
	if (bpf_ringbuf_query(&ring, BPF_RB_CONS_POS) >= share->mark) {
		share->before = share->now;
		share->now = 0;
		share->mark = bpf_ringbuf_query(&ring, BPF_RB_PROD_POS);
	}
	return share;
}

/*
 * Whether a record of so many bytes may be written when `used` bytes of the ring wait to be read. In parts of 16:
 *
 *   trusted   up to 15
 *   others    up to 6 whoever it is; up to 10 who has no more than is left of these; and beyond that, when the
 *             trusted fill the ring, all others together 1
 *
 * So the trusted have 5 parts that nobody else takes, and others at least one that the trusted do not take.
 */
INLINE int may_write(u64 account, u64 used, u64 bytes)
{
	u64 part = bpf_ringbuf_query(&ring, BPF_RB_RING_SIZE) / 16;
	struct share *own, *all;

	if (account == TRUSTED)
		return used + bytes <= 15 * part;
	own = share_of(account);
	all = share_of(OTHERS);
	if (!own || !all)
		return used + bytes <= 6 * part;
	u64 held = own->before + own->now + bytes;
	if (used + bytes > 6 * part && used + held > 10 * part &&
	    (all->before + all->now + bytes > part || held > part / 2))
		return 0;
	__sync_fetch_and_add(&own->now, bytes);
	__sync_fetch_and_add(&all->now, bytes);
	return 1;
}

/* Whether the texts of a record are to be short: its account has much in the ring, or the ring is nearly full. */
INLINE int is_tight(u64 account)
{
	u64 part = bpf_ringbuf_query(&ring, BPF_RB_RING_SIZE) / 16;
	u64 used = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);
	struct share *own;

	if (account == TRUSTED)
		return used > 12 * part;
	if (used <= 4 * part)
		return 0;
	own = share_of(account);
	return !own || own->before + own->now > 2 * part;
}

INLINE void send(struct head *record, u32 kind, u64 bytes)
{
	u32 zero = 0;
	struct counters *mine = bpf_map_lookup_elem(&counts, &zero);
	u64 used = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);
	u64 account = record->account;
	u64 flags = wakes(used);

	if (!mine)
		return;
	/* Each record has a head of 8 bytes there. */
	if (may_write(account, used, bytes + 16) && !bpf_ringbuf_output(&ring, record, bytes, flags))
		mine->sent[kind]++;
	else if (account == TRUSTED)
		mine->lost_of_trusted[kind]++;
	else
		mine->lost_of_others[kind]++;
}

INLINE void count(u32 kind)
{
	u32 zero = 0;
	struct counters *mine = bpf_map_lookup_elem(&counts, &zero);

	if (mine)
		mine->sent[kind]++;
}

/* The kernel's flag of a process that has run no program of its own. */
#define FORKED_WITHOUT_EXEC 0x40
/* And that of a thread of its own. */
#define KERNEL_THREAD 0x00200000

/* A number of a process as the first namespace has it. */
INLINE u32 number(struct pid *pid)
{
	u32 nr = 0;

	PROBE(nr, pid->numbers[0].nr);
	return nr;
}

INLINE u64 cgroup_id(struct cgroup *group)
{
	struct kernfs_node *node = 0;
	u64 id = 0;

	PROBE(node, group->kn);
	PROBE(id, node->id);
	return id;
}

INLINE u64 start_of(struct task_struct *leader)
{
	u64 start = 0;

	if (HAS(leader->start_boottime))
		READ(start, leader->start_boottime);
	else
		READ(start, ((struct task_struct___5_4 *)leader)->real_start_time);
	return start;
}

/*
 * Trusted is who has the real user id 0 on the host itself. The effective one does not count: any user can run programs
 * that are setuid, as fast as he likes.
 */
INLINE u64 account_of(struct task_struct *task)
{
	struct user_namespace *user = 0;
	struct task_struct *leader = 0, *parent = 0;
	const struct cred *cred = 0;
	struct pid *pid = 0;
	u32 uid = 0, level = 0, flags = 0, parent_number = 0;

	READ(pid, task->thread_pid);
	READ(level, pid->level);
	if (level) {
		struct pid_namespace *outermost = 0;
		struct user_namespace *made_in = 0;

		/* Only root makes a pid namespace without one of users: a container is whatever root calls so. */
		bpf_probe_read_kernel(&outermost, sizeof(outermost),
				      (void *)__builtin_preserve_access_index(&pid->numbers[0].ns) + 16);
		PROBE(made_in, outermost->user_ns);
		PROBE(level, made_in->level);
		if (!level) {
			u32 number = 0;

			PROBE(number, outermost->ns.inum);
			return CONTAINER | number;
		}
	}
	READ(cred, task->cred);
	READ(uid, cred->uid);
	READ(user, cred->user_ns);
	READ(level, user->level);
	if (level) {
		/* Within his own namespaces a user has as many user ids as he was given. */
		for (int step = 0; step < 32; step++) {
			if (level <= 1)
				break;
			PROBE(user, user->parent);
			level--;
		}
		PROBE(uid, user->owner);
		return uid ? uid : CONTAINER;
	}
	if (uid)
		return uid;
	READ(leader, task->group_leader);
	READ(parent, leader->real_parent);
	READ(flags, parent->flags);
	READ(parent_number, parent->tgid);
	return flags & KERNEL_THREAD && parent_number ? HELPERS : TRUSTED;
}

INLINE void identify(struct identity *who, struct task_struct *task)
{
	struct task_struct *leader = 0, *parent = 0, *parent_leader = 0;
	const struct cred *cred = 0;
	struct nsproxy *proxy = 0;
	struct signal_struct *signal = 0;
	struct css_set *groups = 0;
	struct mm_struct *mm = 0;
	struct user_namespace *user = 0;

	READ(leader, task->group_leader);
	READ(who->tgid, task->tgid);
	READ(who->tid, task->pid);
	who->start = start_of(leader);
	READ(parent, leader->real_parent);
	READ(who->ppid, parent->tgid);
	READ(parent_leader, parent->group_leader);
	who->parent_start = start_of(parent_leader);
	/* A shell forks itself a few times before one of it runs a program. */
	for (int step = 0; step < 8; step++) {
		u32 flags = 0;

		READ(flags, parent_leader->flags);
		if (!(flags & FORKED_WITHOUT_EXEC))
			break;
		READ(parent, parent_leader->real_parent);
		READ(parent_leader, parent->group_leader);
	}
	READ(who->maker, parent_leader->tgid);
	who->maker_start = start_of(parent_leader);
	bpf_probe_read_kernel(who->comm, sizeof(who->comm), __builtin_preserve_access_index(&task->comm));

	READ(signal, task->signal);
	{
		struct pid *group = 0, *session = 0;

		READ(group, signal->pids[PIDTYPE_PGID]);
		READ(session, signal->pids[PIDTYPE_SID]);
		who->pgid = number(group);
		who->sid = number(session);
	}

	READ(cred, task->cred);
	READ(who->uid, cred->uid);
	READ(who->gid, cred->gid);
	READ(who->euid, cred->euid);
	READ(who->egid, cred->egid);
	READ(who->suid, cred->suid);
	READ(who->fsuid, cred->fsuid);
	READ(who->cap_effective, cred->cap_effective);
	READ(who->cap_permitted, cred->cap_permitted);
	READ(user, cred->user_ns);
	READ(who->user_ns, user->ns.inum);
	who->loginuid = who->sessionid = 0xffffffff;
	if (HAS(task->loginuid)) {
		READ(who->loginuid, task->loginuid);
		READ(who->sessionid, task->sessionid);
	}

	READ(proxy, task->nsproxy);
	{
		struct mnt_namespace *mnt = 0;
		struct net *net = 0;
		struct pid_namespace *pids = 0;
		struct pid *pid = 0;
		u32 level = 0;

		READ(mnt, proxy->mnt_ns);
		READ(who->mnt_ns, mnt->ns.inum);
		READ(net, proxy->net_ns);
		READ(who->net_ns, net->ns.inum);
		READ(pid, task->thread_pid);
		READ(level, pid->level);
		/* The deepest number names the process's own namespace. */
		bpf_probe_read_kernel(&pids, sizeof(pids),
				      (void *)__builtin_preserve_access_index(&pid->numbers[0].ns) + (level & 31) * 16);
		PROBE(who->pid_ns, pids->ns.inum);
	}

	READ(groups, task->cgroups);
	{
		struct cgroup *group = 0;
		struct cgroup_subsys_state *state = 0;

		READ(group, groups->dfl_cgrp);
		who->cgroup_v2 = cgroup_id(group);
		/* On a hybrid host version 2 has everything in one group; the controller of processes is in version 1. */
		if (__builtin_preserve_enum_value(*(enum cgroup_subsys_id *)pids_cgrp_id, 0)) {
			u32 at = __builtin_preserve_enum_value(*(enum cgroup_subsys_id *)pids_cgrp_id, 1);

			bpf_probe_read_kernel(&state, sizeof(state),
					      (void *)__builtin_preserve_access_index(&groups->subsys) + (at & 15) * 8);
			PROBE(group, state->cgroup);
			who->cgroup_v1 = cgroup_id(group);
		}
	}

	READ(mm, task->mm);
	{
		struct file *file = 0;
		struct inode *inode = 0;
		struct super_block *super = 0;
		unsigned long ino = 0;

		who->dev = 0;
		READ(file, mm->exe_file);
		READ(inode, file->f_inode);
		READ(super, inode->i_sb);
		READ(who->dev, super->s_dev);
		READ(ino, inode->i_ino);
		who->inode = ino;
		READ(who->exe_links, inode->i_nlink);
	}
}

/*
 * Writes the names from `path` up to the root of its mount namespace, the last one first, each with a NUL. Whether the
 * root was not reached comes in the highest bit.
 */
static __attribute__((noinline)) u32 walk(struct exec_record *record, u32 from, u32 most, struct vfsmount *mnt,
					  struct dentry *dentry)
{
	u32 done = 0;

	if (!record)
		return 0;
	struct mount *mount = (void *)mnt - INFO(((struct mount *)0)->mnt, 0);
	*(volatile u32 *)&record->cursor = from;
	for (int step = 0; step < COMPONENTS; step++) {
		struct dentry *parent = 0, *root = 0;

		PROBE(parent, dentry->d_parent);
		bpf_probe_read_kernel(&root, sizeof(root), __builtin_preserve_access_index(&mount->mnt.mnt_root));
		if (dentry == root) {
			struct mount *above = 0;

			PROBE(above, mount->mnt_parent);
			if (above == mount) {
				done = 1;
				break;
			}
			PROBE(dentry, mount->mnt_mountpoint);
			mount = above;
			continue;
		}
		const u8 *name = 0;
		PROBE(name, dentry->d_name.name);
		u32 at = *(volatile u32 *)&record->cursor;
		if (at - from > most - 256)
			break;
		asm volatile("" : "+r"(at));
		at &= 8191;
		long took = bpf_probe_read_kernel_str(&record->data[at], 256, name);
		if (took <= 0)
			break;
		*(volatile u32 *)&record->cursor = at + took;
		/* Something in memory is its own parent; it has a name all the same. */
		if (parent == dentry) {
			done = 1;
			break;
		}
		dentry = parent;
	}
	return (*(volatile u32 *)&record->cursor - from) | (done ? 0 : 1u << 31);
}

INLINE u64 text_of_user(struct exec_record *record, u32 at, u32 most, u64 from, u64 to)
{
	u64 bytes = to - from;

	if (to <= from)
		return 0;
	if (most > LONG_BYTES)
		most = LONG_BYTES;
	if (bytes > most)
		bytes = most;
	asm volatile("" : "+r"(bytes));
	bytes &= 8191;
	if (bytes > LONG_BYTES)
		return 0;
	asm volatile("" : "+r"(at));
	at &= 16383;
	if (at > 16384 + 256 - LONG_BYTES)
		return 0;
	if (bpf_probe_read_user(&record->data[at], bytes, (const void *)from))
		return 0;
	return bytes;
}

SEC("tp_btf/sched_process_exec")
int on_exec(u64 *arguments)
{
	struct task_struct *task = (void *)arguments[0];
	struct linux_binprm *bprm = (void *)arguments[2];
	u32 zero = 0;
	struct exec_record *record;

	if (!(wanted & (1 << EXEC)))
		return 0;
	record = bpf_map_lookup_elem(&scratch, &zero);
	if (!record)
		return 0;
	record->head.kind = EXEC;
	record->head.time = bpf_ktime_get_boot_ns();
	record->head.account = account_of(task);
	int tight = is_tight(record->head.account);
	identify(&record->who, task);
	record->old_tid = (u32)arguments[1];

	struct mm_struct *mm = 0;
	struct file *file = 0;
	struct inode *inode = 0;
	struct super_block *super = 0;
	READ(mm, task->mm);
	READ(file, mm->exe_file);
	READ(inode, file->f_inode);
	READ(super, inode->i_sb);
	{
		u16 mode = 0;
		unsigned long magic = 0;

		READ(mode, inode->i_mode);
		record->mode = mode;
		READ(magic, super->s_magic);
		record->filesystem = magic;
		READ(record->owner, inode->i_uid);
		READ(record->links, inode->i_nlink);
		READ(record->size, inode->i_size);
		READ(record->generation, inode->i_generation);
		record->change_seconds = 0;
		if (HAS(inode->i_ctime_sec))
			READ(record->change_seconds, inode->i_ctime_sec);
		else if (HAS(inode->__i_ctime))
			READ(record->change_seconds, inode->__i_ctime.tv_sec);
		else
			READ(record->change_seconds, ((struct inode___old *)inode)->i_ctime.tv_sec);
	}

	/* A field of one bit. */
	{
		u64 value = 0;
		u32 bytes = INFO(bprm->secureexec, 1);

		if (HAS(bprm->secureexec) && bytes <= 8) {
			bpf_probe_read_kernel(&value, bytes, (void *)bprm + INFO(bprm->secureexec, 0));
			value <<= INFO(bprm->secureexec, 4);
			value >>= INFO(bprm->secureexec, 5);
		}
		record->secure = value;
		record->has_fdpath = 0;
		if (HAS(bprm->fdpath)) {
			const char *fdpath = 0;

			READ(fdpath, bprm->fdpath);
			record->has_fdpath = fdpath != 0;
		}
	}
	READ(record->argc, bprm->argc);

	/* What standard input, output and errors are, a shell on a socket is not a person's, and what a script is read from. */
	{
		struct files_struct *files = 0;
		struct fdtable *table = 0;
		struct file **fds = 0;
		u32 most = 0;

		READ(files, task->files);
		READ(table, files->fdt);
		READ(fds, table->fd);
		READ(most, table->max_fds);
		for (int place = 0; place < FILES; place++) {
			u32 fd = place == FILES - 1 ? 63 : place;
			struct file *open = 0;
			struct inode *node = 0;
			u16 mode = 0, family = 0;
			unsigned long ino = 0;

			if (fd < most)
				bpf_probe_read_kernel(&open, sizeof(open), &fds[fd]);
			if (open) {
				PROBE(node, open->f_inode);
				PROBE(mode, node->i_mode);
				PROBE(ino, node->i_ino);
				if ((mode & 0170000) == 0140000) {
					struct socket *socket = 0;
					struct sock *sk = 0;

					PROBE(socket, open->private_data);
					PROBE(sk, socket->sk);
					PROBE(family, sk->__sk_common.skc_family);
				} else if ((mode & 0170000) == 0020000) {
					u32 device = 0;

					PROBE(device, node->i_rdev);
					family = device >> 20;
				} else if ((mode & 0170000) == 0100000) {
					struct dentry *dentry = 0;
					const u8 *name = 0;
					u8 start[6] = {};
					u32 links = 1;

					PROBE(links, node->i_nlink);
					PROBE(dentry, open->f_path.dentry);
					PROBE(name, dentry->d_name.name);
					bpf_probe_read_kernel(start, sizeof(start), name);
					family = !links && start[0] == 'm' && start[1] == 'e' && start[2] == 'm' && start[3] == 'f' &&
						 start[4] == 'd' && start[5] == ':';
				}
			}
			record->fd_mode[place] = mode;
			record->fd_family[place] = family;
			record->fd_inode[place] = ino;
		}
	}

	u32 at = 0;
	const char *filename = 0;
	READ(filename, bprm->filename);
	long took = bpf_probe_read_kernel_str(record->data, tight ? SHORT_NAME_BYTES : NAME_BYTES, filename);
	record->filename = took > 0 ? took : 0;
	at = record->filename;

	record->cut = 0;
	{
		struct vfsmount *mnt = 0;
		struct dentry *dentry = 0;
		READ(mnt, file->f_path.mnt);
		READ(dentry, file->f_path.dentry);
		u32 walked = walk(record, at & 2047, tight ? SHORT_PATH_BYTES : PATH_BYTES, mnt, dentry);
		record->path = walked & 4095;
		record->cut |= walked >> 31;
		at += record->path;

		struct fs_struct *fs = 0;
		READ(fs, task->fs);
		READ(mnt, fs->pwd.mnt);
		READ(dentry, fs->pwd.dentry);
		walked = walk(record, at & 4095, tight ? SHORT_CWD_BYTES : PATH_BYTES, mnt, dentry);
		record->cwd = walked & 4095;
		record->cut |= walked >> 31 << 1;
		at += record->cwd;
	}

	/* The arguments on the new stack: what the program got, whatever its maker does to his own memory meanwhile. */
	unsigned long from = 0, to = 0;
	READ(from, mm->arg_start);
	READ(to, mm->arg_end);
	record->argument_bytes = to - from;
	record->arguments = text_of_user(record, at, tight ? SHORT_ARGUMENT_BYTES : argument_bytes, from, to);
	at += record->arguments;
	READ(from, mm->env_start);
	READ(to, mm->env_end);
	record->environment_bytes = to - from;
	record->environment = text_of_user(record, at, tight ? 0 : environment_bytes, from, to);
	at += record->environment;

	u64 bytes = __builtin_offsetof(struct exec_record, data) + at;
	record->head.bytes = bytes;
	asm volatile("" : "+r"(bytes));
	bytes &= 32767;
	if (bytes > sizeof(*record))
		return 0;
	send(&record->head, EXEC, bytes);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int on_fork(u64 *arguments)
{
	if (wanted & (1 << FORK))
		count(FORK);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int on_exit(u64 *arguments)
{
	struct task_struct *task = (void *)arguments[0];
	struct task_struct *leader = 0;
	struct signal_struct *signal = 0;
	const struct cred *cred = 0;
	struct exit_record record = {};
	u32 live = 0, flags = 0;
	u64 more = 0;
	unsigned long pages = 0;
	int code = 0;

	if (!(wanted & (1 << EXIT)))
		return 0;
	READ(signal, task->signal);
	READ(live, signal->live);
	if (live)
		return 0;
	READ(leader, task->group_leader);
	READ(flags, leader->flags);
	if (flags & FORKED_WITHOUT_EXEC)
		return 0;
	record.head.kind = EXIT;
	record.head.bytes = sizeof(record);
	record.head.time = bpf_ktime_get_boot_ns();
	record.head.account = account_of(task);
	record.start = start_of(leader);
	READ(record.tgid, task->tgid);
	READ(cred, task->cred);
	READ(record.uid, cred->uid);
	READ(record.euid, cred->euid);
	READ(code, signal->group_exit_code);
	if (!code)
		READ(code, task->exit_code);
	record.code = code;
	READ(record.user_ns, task->utime);
	READ(more, signal->utime);
	record.user_ns += more;
	READ(record.system_ns, task->stime);
	READ(more, signal->stime);
	record.system_ns += more;
	READ(pages, signal->maxrss);
	record.resident_pages = pages;
	send(&record.head, EXIT, sizeof(record));
	return 0;
}

enum { ESTABLISHED = 1, SYN_SENT = 2, SYN_RECV = 3, CLOSE = 7, LISTEN = 10 };

SEC("tp_btf/inet_sock_set_state")
int on_state(u64 *arguments)
{
	struct sock *sk = (void *)arguments[0];
	int old = arguments[1], new = arguments[2];
	struct net_record record = {};
	struct net *net = 0;
	u16 port = 0;

	if (!(wanted & (1 << NET)))
		return 0;
	/* An accepted socket begins as a copy of the listening one: from LISTEN to SYN_RECV nobody stops to listen. */
	if (new != SYN_SENT && new != LISTEN && new != ESTABLISHED && !(new == CLOSE && (old == LISTEN || old == SYN_SENT)))
		return 0;
	READ(record.family, sk->__sk_common.skc_family);
	record.head.kind = NET;
	record.head.time = bpf_ktime_get_boot_ns();
	record.socket = (u64)sk;
	record.old_state = old;
	record.new_state = new;
	/* Only here the caller is who asked for it; all others come with the packets, whoever runs then. */
	if (new == SYN_SENT || new == LISTEN) {
		struct task_struct *task = current_task();

		record.named = 1;
		record.head.account = account_of(task);
		identify(&record.who, task);
	}
	READ(net, sk->__sk_common.skc_net.net);
	READ(record.net_ns, net->ns.inum);
	if (!record.named && new == ESTABLISHED && old != SYN_SENT) {
		/* The owner of the listening socket does not choose how many come. */
		record.head.account = PEERS;
	} else if (!record.named) {
		u32 uid = 0;

		READ(uid, sk->sk_uid);
		record.head.account = uid ? uid : host_net && record.net_ns != host_net ? CONTAINER : TRUSTED;
	}
	READ(record.local_port, sk->__sk_common.skc_num);
	READ(port, sk->__sk_common.skc_dport);
	record.remote_port = __builtin_bswap16(port);
	if (record.family == 10) {
		PROBE(record.local, sk->__sk_common.skc_v6_rcv_saddr);
		PROBE(record.remote, sk->__sk_common.skc_v6_daddr);
	} else {
		bpf_probe_read_kernel(record.local, 4, __builtin_preserve_access_index(&sk->__sk_common.skc_rcv_saddr));
		bpf_probe_read_kernel(record.remote, 4, __builtin_preserve_access_index(&sk->__sk_common.skc_daddr));
	}
	/* Two calls with a constant each: what the verifier knows the length of. */
	if (record.named) {
		record.head.bytes = sizeof(record);
		send(&record.head, NET, sizeof(record));
	} else {
		record.head.bytes = __builtin_offsetof(struct net_record, who);
		send(&record.head, NET, __builtin_offsetof(struct net_record, who));
	}
	return 0;
}
