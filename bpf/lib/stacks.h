/* Which way led to a call: a stack id for each, at its first sight.
 *
 * Copying a stack and finding the frames in it is for user space, and costs microseconds; so it is done once for every
 * way that leads to a call. What user space finds, it teaches: how far from each return address the next one lies. With
 * that a stack is walked here, and the return addresses, hashed, tell the ways apart (instruction and stack pointer do
 * not: the first is always libc's, the second the same for frames of one size). Until the frames are known, the top of
 * the stack tells: those of its words that point into code, with their places.
 *
 * Read by src/threadinfo/trace/stacks/records.py, whose struct layouts mirror these. Needs of who includes it: how many
 * stacks are told apart (STACKS), struct control with copies_left and next_stack, get_control(), COUNT(uncopied); of the
 * loader PT_REGS_BYTES, LONG_STACK_PAGES and SHORT_STACK_PAGES.
 */
#define MOST_FRAMES 16
#define MOST_FRAMES_WHOLE 32
#define USER_PAGE 4096 /* the smallest that there is */
#define COPIED_STACK (2 * USER_PAGE)
#define COPIED_STACK_SHORT 1024 /* of a way that user space is busy learning */

struct frame {
    u32 step; /* from where the frame begins (for the innermost: the stack pointer) to its return address */
    u32 flags;
};
#define IS_PROGRAM 1   /* not of a C library, whose callers are meant */
#define IS_END 2       /* what lies beyond is not walked */
#define IS_OUTERMOST 4 /* nothing lies beyond */
#define IS_ROOT 8      /* beyond lies only what started the thread */
BPF_HASH(frames, u64, struct frame, 32768); /* by the address, mixed with what says which program it is of */
BPF_HASH(stack_ids, u64, u32, STACKS);       /* by the way */
BPF_TABLE("lru_hash", u64, u32, pending_ids, STACKS); /* by the way as far as it is known, and the top of the stack */
BPF_TABLE("lru_hash", u64, u32, unlearnt, 4096); /* ways, as far as they are known, of which a long copy was made */

/* Pages of code of the traced processes, as a filter: a bit by the hash of a page's number, set by user space. */
#define CODE_WORDS 1024
struct code_filter {
    u64 bits[CODE_WORDS];
};
BPF_F_TABLE("array", u32, struct code_filter, code_filter, 1, MAPPED);

struct stack_top {
    u64 words[COPIED_STACK_SHORT / 8];
};
BPF_PERCPU_ARRAY(stack_tops, struct stack_top, 1);

struct copied_stack {
    u32 id;
    u32 tgid;
    u32 tid;
    u32 length;
    u32 exec_id;
    u32 unused;
    u64 registers[PT_REGS_BYTES / 8];
};
struct long_stack {
    struct copied_stack head;
    u64 data[COPIED_STACK / 8];
};
struct short_stack {
    struct copied_stack head;
    u64 data[COPIED_STACK_SHORT / 8];
};
BPF_RINGBUF_OUTPUT(long_stacks, LONG_STACK_PAGES);
BPF_RINGBUF_OUTPUT(short_stacks, SHORT_STACK_PAGES);

static __always_inline void fill_head(struct copied_stack *head, u32 id, u32 exec_id, void *registers) {
    u64 pid_tgid = bpf_get_current_pid_tgid();

    head->id = id;
    head->tgid = pid_tgid >> 32;
    head->tid = pid_tgid;
    head->length = 0;
    head->exec_id = exec_id;
    head->unused = 0;
    bpf_probe_read_kernel(head->registers, sizeof head->registers, registers);
}

/* As much of it as is mapped: up to the end of what is wanted, or of the next page, or of this one. */
static __always_inline u32 read_stack(void *to, u64 sp) {
    u32 length = USER_PAGE - (sp & (USER_PAGE - 1));

    if (!read_user_bytes(to, COPIED_STACK, (void *)sp))
        return COPIED_STACK;
    if (!read_user_bytes(to, length + USER_PAGE, (void *)sp))
        return length + USER_PAGE;
    return read_user_bytes(to, length, (void *)sp) ? 0 : length;
}

/* Gives the copy's stack id; 0 where there is no room. */
static __always_inline u32 copy_stack(void *registers, u64 sp, u32 exec_id, bool is_long) {
    u32 zero = 0, id;
    struct control *c = get_control();

    if (!c || c->next_stack >= STACKS || __sync_fetch_and_add(&c->copies_left, -1) <= 0)
        goto no_room;
    if (is_long) {
        struct long_stack *record = long_stacks.ringbuf_reserve(sizeof *record);

        if (!record)
            goto no_room;
        id = __sync_fetch_and_add(&c->next_stack, 1);
        fill_head(&record->head, id, exec_id, registers);
        record->head.length = read_stack(record->data, sp);
        long_stacks.ringbuf_submit(record, NO_WAKEUP);
    } else {
        struct short_stack *record = short_stacks.ringbuf_reserve(sizeof *record);

        if (!record)
            goto no_room;
        id = __sync_fetch_and_add(&c->next_stack, 1);
        fill_head(&record->head, id, exec_id, registers);
        if (!read_user_bytes(record->data, sizeof record->data, (void *)sp))
            record->head.length = sizeof record->data;
        short_stacks.ringbuf_submit(record, NO_WAKEUP);
    }
    return id < STACKS ? id : 0;
no_room:
    COUNT(uncopied);
    return 0;
}

static __always_inline bool is_code(struct code_filter *filter, u64 address) {
    u32 bit = (address >> 12) * MIX >> 48;

    return filter->bits[bit >> 6 & (CODE_WORDS - 1)] >> (bit & 63) & 1;
}

/* The words at the top of the stack that point into code, hashed; 0 where they are not to be had. */
static __always_inline u64 hash_top(u64 ip, u64 sp) {
    u32 zero = 0, i;
    struct stack_top *top = stack_tops.lookup(&zero);
    struct code_filter *filter = code_filter.lookup(&zero);
    u64 hash = 1;

    if (!top || !filter || !is_code(filter, ip) || read_user_bytes(top->words, sizeof top->words, (void *)sp))
        return 0;
    EACH (i, 0, COPIED_STACK_SHORT / 8) {
        u64 word = top->words[i];

        if (!is_code(filter, word))
            continue;
        hash = (hash ^ word ^ (u64)i << 56) * MIX;
        hash ^= hash >> 32;
    }
    return hash ? hash : 1;
}

/* Where in the stack the return addresses lay when a way was walked to its end: the same call with the same stack pointer
 * mostly finds its own there, with one read and no look-up a frame. Which way that is, the addresses at these places tell:
 * each address says where the next one lies, so that a way whose addresses and places are all as before is the same. */
#define SHAPES 256
#define WALK_WORDS 128 /* of the stack */
struct shape {
    u64 ip;
    u64 sp;
    u64 program;
    u64 mark; /* of the places, hashed */
    u32 is_whole;
    u16 frame_count; /* 0: there is none */
    u16 word_count;  /* of the stack, up to the last return address */
    u8 places[MOST_FRAMES_WHOLE];
};
BPF_PERCPU_ARRAY(shapes, struct shape, SHAPES);

/* Ways by their addresses and places. */
#define WALKED 4096
struct walked {
    u64 way;
    u64 id;
};
BPF_PERCPU_ARRAY(walked_ways, struct walked, WALKED);

static __always_inline struct shape *find_shape(u64 ip, u64 sp, u64 program) {
    u32 index = ((ip ^ sp ^ program) * MIX) >> 56;

    return shapes.lookup(&index);
}

/* The id of a way; 0 where it was not walked, or others have come since. */
static __always_inline u32 find_walked(u64 way) {
    u32 index = way & (WALKED - 1), other = index ^ 1;
    struct walked *one = walked_ways.lookup(&index);

    if (one && one->way == way)
        return one->id;
    one = walked_ways.lookup(&other);
    return one && one->way == way ? one->id : 0;
}

static __always_inline void keep_walked(u64 way, u32 id) {
    u32 index = way & (WALKED - 1), other = index ^ 1;
    struct walked *one = walked_ways.lookup(&index), *before = walked_ways.lookup(&other);

    if (!one || !before)
        return;
    *before = *one; /* two ways of one place */
    one->way = way;
    one->id = id;
}

static __always_inline u64 mix_way(u64 way, u64 address) {
    way = (way ^ address) * MIX;
    return way ^ way >> 32;
}

/* The same for a few words, which come to lie on the program's own stack: it costs less than elsewhere. */
#define FEW_WORDS 16
static __always_inline u64 walk_few_again(struct shape *shape, u64 way, u64 sp) {
    u64 words[FEW_WORDS];

    if (read_user_bytes(words, sizeof words, (void *)sp))
        return 0;
    for (u32 i = 0; i < MOST_FRAMES_WHOLE; i++) {
        u32 place = shape->places[i];

        if (i >= shape->frame_count)
            break;
        asm volatile("" : "+r"(place));
        way = mix_way(way, words[place & (FEW_WORDS - 1)]);
    }
    return way ^ shape->mark;
}

/* The way as it is by the addresses at the places of a shape, with these; 0 where the stack cannot be read. */
static __always_inline u64 walk_again(struct shape *shape, u64 way, u64 sp) {
    u32 zero = 0;
    u64 length = shape->word_count * 8;
    struct stack_top *top = stack_tops.lookup(&zero);

    asm volatile("" : "+r"(length)); /* or clang drops the mask, which the verifier needs */
    length &= 2 * WALK_WORDS * 8 - 1;
    if (!top || length > WALK_WORDS * 8 || read_user_bytes(top->words, length, (void *)sp))
        return 0;
    for (u32 i = 0; i < MOST_FRAMES_WHOLE; i++) {
        u32 place = shape->places[i];

        if (i >= shape->frame_count)
            break;
        asm volatile("" : "+r"(place));
        way = mix_way(way, top->words[place & (WALK_WORDS - 1)]);
    }
    return way ^ shape->mark;
}

/* The stack id of the way that led to this call; the stack is copied where it is new. The way of a whole stack goes down
 * to the thread's start. */
static __always_inline u32 stack_of_call(void *registers, u64 ip, u64 sp, u32 exec_id, bool is_whole) {
    u32 one = 1, i, id, *known;
    /* Another process, or one that has called exec, has other frames. Mirrored by trace/stacks/records.py. */
    u64 program = ((bpf_get_current_pid_tgid() >> 32) << 32 | exec_id) * MIX;
    u64 way = mix_way(program ^ is_whole, ip), at = sp, pc = ip, key, top, mark = 1;
    bool is_program = false, is_exact = !is_whole, is_long = true, is_kept = true;
    struct shape *shape = find_shape(ip, sp, program ^ is_whole);
    struct frame *frame;

    if (!shape)
        return 0;
    if (shape->frame_count && shape->ip == ip && shape->sp == sp && shape->program == program &&
        shape->is_whole == is_whole) {
        u64 again = shape->word_count <= FEW_WORDS ? walk_few_again(shape, way, sp) : walk_again(shape, way, sp);

        id = again ? find_walked(again) : 0;
        if (id)
            return id;
    }
    shape->frame_count = shape->word_count = 0;
    EACH (i, 0, MOST_FRAMES_WHOLE) {
        key = pc ^ program;
        frame = frames.lookup(&key);
        if (!frame) {
            is_exact = false;
            known = unlearnt.lookup(&way);
            is_long = is_whole || !known;
            if (!known)
                unlearnt.update(&way, &one);
            break;
        }
        if (frame->flags & IS_END) {
            is_exact |= frame->flags & IS_OUTERMOST;
            break;
        }
        if (!is_whole) {
            if (i == MOST_FRAMES - 1 || frame->flags & IS_ROOT || (is_program && !(frame->flags & IS_PROGRAM)))
                break; /* the last: the library that called the program, for example qsort */
            is_program = frame->flags & IS_PROGRAM;
        }
        at += frame->step;
        if (read_user_bytes(&pc, sizeof pc, (void *)at))
            break;
        way = mix_way(way, pc);
        is_kept &= at - sp < WALK_WORDS * 8 && !((at - sp) & 7);
        if (is_kept) {
            u32 place = (at - sp) / 8;

            shape->places[i & (MOST_FRAMES_WHOLE - 1)] = place;
            shape->frame_count = i + 1;
            shape->word_count = place + 1;
            mark = mix_way(mark, place);
        }
        at += sizeof pc;
    }
    if (is_exact) {
        known = stack_ids.lookup(&way);
        if (known) {
            if (is_kept) {
                shape->ip = ip;
                shape->sp = sp;
                shape->program = program;
                shape->is_whole = is_whole;
                shape->mark = mark;
                if (!find_walked(way ^ mark)) /* it may be the shape that was another's */
                    keep_walked(way ^ mark, *known);
            } else {
                shape->frame_count = 0;
            }
            return *known;
        }
        id = copy_stack(registers, sp, exec_id, true);
        if (id)
            stack_ids.update(&way, &id);
        return id;
    }
    shape->frame_count = 0;
    top = hash_top(ip, sp);
    way ^= top;
    known = top ? pending_ids.lookup(&way) : NULL;
    if (known)
        return *known;
    id = copy_stack(registers, sp, exec_id, is_long);
    if (id && top)
        pending_ids.update(&way, &id);
    return id;
}
