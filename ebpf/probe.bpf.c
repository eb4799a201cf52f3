/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What chosen processes do around epoll, counted by the kernel at three places:
 * entry to a system call, return from it, and the moment a thread leaves the CPU.
 *
 * Rules:
 *   1. Filter first.  A process nobody asked about costs one array lookup and
 *      TARGETS integer compares, because everybody's system calls come by here.
 *   2. Read no kernel struct.  Numbers and results are tracepoint arguments, so
 *      neither kernel headers nor BTF are needed and no kernel version can make
 *      a field silently wrong.  The two registers that are read (epoll_ctl's
 *      operation, and the number of a call that was not seen to begin) lie in the
 *      part of pt_regs that is user ABI (uapi/asm/ptrace.h), at offsets the loader
 *      gives.
 *   3. Never lose a count silently.  What cannot be counted is counted as such:
 *      `unmatched`, `untracked`, `other_threads`, and recursion_misses, which the
 *      kernel itself keeps for each program.
 *   4. One histogram rule, the daemon's own: value v falls into slot
 *      bit_length(v), and slot k ends at 2^k - 1, edge included.
 *
 * A thread becomes a loop thread when it first enters epoll_wait, or returns from
 * one that it had entered before the probe came.  Only loop threads are counted (unless
 * ALL_THREADS), from then on: the thread that answers a metrics scrape does no
 * server's work.
 *
 * The loader sets, by -D and in no other way: TARGETS, GROUPS, LITE, ALL_THREADS,
 * NAMESPACED, RAW_SYSCALLS, RAW_SWITCH, NR_EPOLL_WAIT, NR_EPOLL_PWAIT,
 * NR_EPOLL_PWAIT2, NR_EPOLL_CTL, NR_EXIT, NR_EXIT_GROUP,
 * NR_RT_SIGRETURN, ARG2_OFFSET, NUMBER_OFFSET.
 */
#define BPF_LICENSE Dual MIT/GPL

#define SYSCALLS 512       /* numbers in use end near 470 on every architecture */
#define THREADS 8192       /* threads of all targets together; 40 bytes each, and the map's own */
#define ERRORS 2048        /* distinct (group, system call, errno) */
#define EVENT_SLOTS 15     /* the last one is open: more than 8191 events */
#define NOBODY 0xffffffff  /* the group of a process nobody asked about */
#define IDLE 0xffffffff    /* the system call of a thread that is in none */
#define EINTR_RESULT -4
#define EAGAIN_RESULT -11
#define LOWEST_ERROR -4095 /* MAX_ERRNO: below it a negative result is an address */

#if LITE
#define DURATION_SLOTS 1   /* a plain count: only epoll_wait is timed */
#else
#define DURATION_SLOTS 38  /* the last one is open: longer than 68.7 s */
#endif

/* A target named by its pid inside a pid namespace; pid 0 once it is known. */
struct wanted {
	u64 device, inode;
	u64 pid;
};

/* Written by user space, except that learn() fills in tgid and clears wanted.pid. */
struct config {
	u32 tgid[TARGETS]; /* 0: free */
	u32 group[TARGETS];
	struct wanted wanted[TARGETS];
};

/* One system call number of one group.  Calls are the sum of the slots, so that
 * a count and its histogram cannot disagree. */
struct call {
	u64 marked; /* user space knows from `seen` that this row is in use */
	u64 nanoseconds, result_sum, eagain, errors;
	u64 duration[DURATION_SLOTS];
};

struct seen {
	u8 nr[SYSCALLS];
};

struct loop {
	u64 wakeup, ready, timeout, empty, interrupted, failed;
	u64 blocked_ns, events_sum;
	u64 ctl_other, ctl_add, ctl_del, ctl_mod;
	u64 voluntary, involuntary;
	u64 other_threads, unmatched, untracked;
	u64 ended_ns; /* lived by loop threads that have ended, from their first wait on */
	u64 events[EVENT_SLOTS]; /* waits that returned events */
};

struct thread {
	u64 entered_ns, first_wait_ns;
	u32 nr, tgid, group;
	u32 slept;     /* it left the CPU of its own accord within this call */
	u32 is_loop;   /* it has entered epoll_wait */
	u32 operation; /* epoll_ctl's */
};

/* What the thread that runs on this CPU is doing, so that one which makes call after
 * call without sleeping need not be looked up.  While there is a note its thread's
 * record is IDLE; it catches up when the thread leaves the CPU, and the note ends.
 * A switch that was not seen would leave the note standing: it is a missed run.
 * Nobody else may use the note between two steps of a program.  Kernels up to 6.18 run
 * one with preemption off; one that does not is caught by `busy`, in switched(). */
struct note {
	u64 id; /* the thread's pid_tgid; 0: no note */
	u64 entered_ns;
	u32 nr, slept, is_loop, has_waited, operation, busy;
};

BPF_ARRAY(config, struct config, 1);
BPF_ARRAY(seen, struct seen, GROUPS);
BPF_PERCPU_ARRAY(calls, struct call, GROUPS * SYSCALLS);
BPF_PERCPU_ARRAY(loops, struct loop, GROUPS);
BPF_PERCPU_HASH(errors, u64, u64, ERRORS); /* group << 32 | nr << 16 | errno */
BPF_HASH(threads, u32, struct thread, THREADS);
BPF_PERCPU_ARRAY(notes, struct note, 1);

static __always_inline u32 slot_of(u64 value)
{
	u32 bits = 0;

	if (value >> 32) { value >>= 32; bits += 32; }
	if (value >> 16) { value >>= 16; bits += 16; }
	if (value >> 8)  { value >>= 8;  bits += 8; }
	if (value >> 4)  { value >>= 4;  bits += 4; }
	if (value >> 2)  { value >>= 2;  bits += 2; }
	if (value >> 1)  { value >>= 1;  bits += 1; }
	return bits + value; /* what is left is 0 or 1 */
}

#if NAMESPACED
/* The kernel's own numbering cannot be seen from inside a pid namespace.  The
 * first system call of a wanted process tells it, and is itself counted. */
static __always_inline u32 learn(struct config *c, u32 tgid)
{
	struct bpf_pidns_info here = {};
	int i;

#pragma unroll
	for (i = 0; i < TARGETS; i++) {
		struct wanted *w = &c->wanted[i];

		if (!w->pid)
			continue;
		if (bpf_get_ns_current_pid_tgid(w->device, w->inode, &here, sizeof(here)))
			continue;
		if (here.tgid != w->pid)
			continue;
		c->tgid[i] = tgid;
		w->pid = 0;
		return c->group[i];
	}
	return NOBODY;
}
#endif

static __always_inline u32 group_of(u32 tgid)
{
	int zero = 0, i;
	struct config *c = config.lookup(&zero);

	if (!c || !tgid) /* 0 is the idle task, and a free slot */
		return NOBODY;
#pragma unroll
	for (i = 0; i < TARGETS; i++)
		if (c->tgid[i] == tgid)
			return c->group[i];
#if NAMESPACED
	return learn(c, tgid);
#else
	return NOBODY;
#endif
}

static __always_inline int is_wait(u32 nr)
{
	return nr == NR_EPOLL_WAIT || nr == NR_EPOLL_PWAIT || nr == NR_EPOLL_PWAIT2;
}

static __always_inline struct thread *add_thread(u32 tid, u32 tgid, u32 group)
{
	struct thread fresh = {};

	fresh.tgid = tgid;
	fresh.group = group;
	fresh.nr = IDLE;
	fresh.is_loop = ALL_THREADS;
	if (threads.update(&tid, &fresh))
		return 0;
	return threads.lookup(&tid);
}

static __always_inline int count_untracked(u32 group)
{
	struct loop *l = loops.lookup(&group);

	if (l)
		l->untracked++;
	return 0;
}

static __always_inline void end_thread(u32 tid, u32 group)
{
	struct thread *t = threads.lookup(&tid);
	struct loop *l = loops.lookup(&group);

	if (t && l && t->first_wait_ns)
		l->ended_ns += bpf_ktime_get_ns() - t->first_wait_ns;
	threads.delete(&tid);
}

/* What epoll_ctl is to do: its second argument, or with perf's tracepoint that
 * argument itself.  Read after the filter: everybody calls epoll_ctl. */
static __always_inline u32 operation_of(u64 where)
{
#if RAW_SYSCALLS
	u64 operation = 0;

	bpf_probe_read_kernel(&operation, sizeof(operation), (void *)(where + ARG2_OFFSET));
	return operation;
#else
	return where;
#endif
}

static __always_inline void begin_note(struct note *n, u64 id, struct thread *t, u32 group)
{
	n->id = id;
	n->entered_ns = t->entered_ns;
	n->nr = t->nr;
	n->slept = t->slept;
	n->is_loop = t->is_loop;
	n->has_waited = t->first_wait_ns != 0;
	n->operation = t->operation;
	t->group = group;
	t->nr = IDLE; /* else user space would take it to be still in the wait it has left */
}

static __always_inline void write_back(const struct note *n, struct thread *t)
{
	t->entered_ns = n->entered_ns;
	t->nr = n->nr;
	t->slept = n->slept;
	t->operation = n->operation;
}

static __always_inline void begin_loop(struct note *n, u32 tid)
{
	struct thread *t = threads.lookup(&tid);

	n->is_loop = n->has_waited = 1;
	if (!t)
		return;
	t->first_wait_ns = n->entered_ns;
	t->is_loop = 1;
}

/* Volatile, for the compiler sees nobody who could look in between. */
static __always_inline void set_busy(struct note *n, u32 busy)
{
	*(volatile u32 *)&n->busy = busy;
}

static __always_inline int note_entry(struct note *n, u64 id, u32 group, u32 nr, u64 where)
{
	u32 tid = id;
	struct thread *t;

	if (nr == NR_EXIT || nr == NR_EXIT_GROUP) { /* these do not return */
		end_thread(tid, group);
		return 0;
	}
	if (n->id != id) {
		t = threads.lookup(&tid);
		if (!t)
			t = add_thread(tid, id >> 32, group);
		if (!t)
			return count_untracked(group);
		begin_note(n, id, t, group);
	}
	n->nr = nr;
	n->slept = 0;
	if (nr == NR_EPOLL_CTL)
		n->operation = operation_of(where);
#if LITE
	if (!is_wait(nr))
		return 0;
#endif
	n->entered_ns = bpf_ktime_get_ns();
	if (is_wait(nr) && !n->has_waited)
		begin_loop(n, tid);
	return 0;
}

static __always_inline int enter(u32 nr, u64 where)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 zero = 0, group = group_of(id >> 32);
	struct note *n;

	if (group == NOBODY)
		return 0;
	n = notes.lookup(&zero);
	if (!n)
		return 0;
	set_busy(n, 1);
	note_entry(n, id, group, nr, where);
	set_busy(n, 0);
	return 0;
}

static __always_inline void count_wait(struct loop *l, long result, u32 slept, u64 duration)
{
	u32 slot;

	if (slept)
		l->blocked_ns += duration;
	if (result > 0) {
		if (slept)
			l->wakeup++;
		else
			l->ready++;
		l->events_sum += result;
		slot = slot_of(result);
		l->events[slot < EVENT_SLOTS ? slot : EVENT_SLOTS - 1]++;
	} else if (result == 0) {
		if (slept)
			l->timeout++;
		else
			l->empty++;
	} else if (result == EINTR_RESULT) {
		l->interrupted++;
	} else {
		l->failed++;
	}
}

static __always_inline void count_ctl(struct loop *l, u32 operation)
{
	if (operation == 1) /* EPOLL_CTL_ADD, uapi/linux/eventpoll.h */
		l->ctl_add++;
	else if (operation == 2)
		l->ctl_del++;
	else if (operation == 3)
		l->ctl_mod++;
	else
		l->ctl_other++;
}

static __always_inline void mark(struct call *row, u32 group, u32 nr)
{
	struct seen *s = seen.lookup(&group);
	u64 index = nr;

	/* LLVM 19 knows the bound from the caller and would leave the check out, but the
	 * verifier must see it in the register that indexes: make LLVM forget. */
	asm volatile("" : "+r"(index));
	if (s && index < SYSCALLS)
		s->nr[index] = 1;
	row->marked = 1;
}

/* An update sets this CPU's value alone; without an entry that value is nought,
 * also where another CPU makes the entry between these two steps. */
static __always_inline void count_error(u64 key)
{
	u64 first = 1, *count = errors.lookup(&key);

	if (count)
		(*count)++;
	else
		errors.update(&key, &first);
}

static __always_inline void count_call(struct call *row, u32 group, u32 nr, long result,
				       u64 duration)
{
	u32 slot = 0;

	if (!row->marked)
		mark(row, group, nr);
#if !LITE
	slot = slot_of(duration);
	if (slot >= DURATION_SLOTS)
		slot = DURATION_SLOTS - 1;
#endif
	row->duration[slot]++;
	row->nanoseconds += duration;
	if (result > 0 || result < LOWEST_ERROR) {
		row->result_sum += result;
	} else if (result == EAGAIN_RESULT) {
		row->eagain++; /* a field of its own: under ET it ends every drain */
	} else if (result) {
		row->errors++;
		count_error((u64)group << 32 | nr << 16 | (u32)-result);
	}
}

/* What returns now, asked of the return itself: `where` is the registers, or with
 * perf's tracepoint, which tells it, the number.  IDLE after rt_sigreturn. */
static __always_inline u32 returning(u64 where)
{
#if RAW_SYSCALLS
	u64 nr = IDLE;

	bpf_probe_read_kernel(&nr, sizeof(nr), (void *)(where + NUMBER_OFFSET));
	return nr;
#else
	return where;
#endif
}

/* If it is a wait that had begun when the probe came: its thread is a loop thread.  It is
 * taken to have slept.  How long is not known, so its time counts from now on. */
static __always_inline struct thread *meet_waiter(u32 tid, u32 tgid, u32 group, u64 where)
{
	u32 nr = returning(where);
	struct thread *t;

	if (!is_wait(nr))
		return 0;
	t = add_thread(tid, tgid, group);
	if (!t)
		return 0;
	t->nr = nr;
	t->is_loop = 1;
	t->slept = 1;
	t->first_wait_ns = t->entered_ns = bpf_ktime_get_ns();
	return t;
}

/* A known thread returns from what it did not enter: seccomp(2) refused the call,
 * which sys_enter is not told of.  It took no time and moved nothing. */
static __always_inline void meet_refusal(struct note *n, long *result)
{
	n->slept = 0;
	n->operation = 0;
	n->entered_ns = bpf_ktime_get_ns();
	if (*result > 0) /* SECCOMP_RET_TRAP: the call's own number */
		*result = 0;
}

/* In progress when the probe came, or clone's child. */
static __always_inline int count_unmatched(u32 group)
{
	struct loop *l = loops.lookup(&group);

	if (l)
		l->unmatched++;
	return 0;
}

static __always_inline int count_return(struct note *n, u32 group, u32 nr, long result)
{
	u32 row_key = group * SYSCALLS + nr;
	u64 duration = 0;
	struct call *row;
	struct loop *l;

	if (nr < SYSCALLS && n->is_loop) {
#if LITE
		if (is_wait(nr))
#endif
			duration = bpf_ktime_get_ns() - n->entered_ns;
		row = calls.lookup(&row_key);
		if (row)
			count_call(row, group, nr, result, duration);
		if (!is_wait(nr) && nr != NR_EPOLL_CTL)
			return 0;
	}
	l = loops.lookup(&group);
	if (!l)
		return 0;
	if (!n->is_loop)
		l->other_threads++;
	else if (nr >= SYSCALLS)
		l->untracked++;
	else if (nr == NR_EPOLL_CTL)
		count_ctl(l, n->operation);
	else
		count_wait(l, result, n->slept, duration);
	return 0;
}

static __always_inline int note_return(struct note *n, u64 id, u32 group, long result, u64 where)
{
	u32 tid = id, nr;
	struct thread *t;

	if (n->id != id) {
		t = threads.lookup(&tid);
		if (!t)
			t = meet_waiter(tid, id >> 32, group, where);
		if (!t)
			return count_unmatched(group);
		begin_note(n, id, t, group);
	}
	nr = n->nr;
	n->nr = IDLE;
	if (nr == IDLE) {
		nr = returning(where);
		if (nr != IDLE) /* else it was syscall(-1): it has no row, and is untracked */
			meet_refusal(n, &result);
	}
	if (nr == NR_RT_SIGRETURN)
		result = 0; /* the register of what the signal interrupted, not a result */
	return count_return(n, group, nr, result);
}

static __always_inline int leave(long result, u64 where)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 zero = 0, group = group_of(id >> 32);
	struct note *n;

	if (group == NOBODY)
		return 0;
	n = notes.lookup(&zero);
	if (!n)
		return 0;
	set_busy(n, 1);
	note_return(n, id, group, result, where);
	set_busy(n, 0);
	return 0;
}

/* `current` is still the thread that leaves the CPU.  Involuntary is what
 * __schedule() in kernel/sched/core.c says: preempted, or still runnable. */
static __always_inline int switched(int involuntary)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 zero = 0, tid = id, group = group_of(id >> 32);
	struct note *n = notes.lookup(&zero);
	struct thread *t;
	struct loop *l;

	if (!n || (group == NOBODY && !n->id && !n->busy))
		return 0;
	if (n->busy) { /* the thread was preempted amid one of our programs */
		n->busy = 0;
		count_untracked(group);
	}
	t = threads.lookup(&tid);
	if (t && n->id == id)
		write_back(n, t);
	n->id = 0; /* also one of a thread that has ended, or took another's number by execve(2) */
	if (group == NOBODY || !t || !t->is_loop)
		return 0;
	l = loops.lookup(&group);
	if (!l)
		return 0;
	if (involuntary) {
		l->involuntary++;
	} else {
		l->voluntary++;
		t->slept = 1;
	}
	return 0;
}

#if RAW_SYSCALLS
RAW_TRACEPOINT_PROBE(sys_enter) /* (regs, nr) */
{
	return enter(ctx->args[1], ctx->args[0]);
}

RAW_TRACEPOINT_PROBE(sys_exit) /* (regs, result) */
{
	return leave(ctx->args[1], ctx->args[0]);
}
#else
TRACEPOINT_PROBE(raw_syscalls, sys_enter)
{
	return enter(args->id, args->args[1]);
}

TRACEPOINT_PROBE(raw_syscalls, sys_exit)
{
	return leave(args->ret, args->id);
}
#endif

#if RAW_SWITCH
RAW_TRACEPOINT_PROBE(sched_switch) /* (preempt, prev, next, prev_state); Linux 5.18 on */
{
	return switched((ctx->args[0] & 1) || !(u32)ctx->args[3]);
}
#else
TRACEPOINT_PROBE(sched, sched_switch) /* 0x100: TASK_REPORT_MAX, preempted */
{
	return switched(!args->prev_state || (args->prev_state & 0x100));
}
#endif
