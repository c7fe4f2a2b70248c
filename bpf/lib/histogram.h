/* Durations by buckets, an eighth of an octave each. Mirrored by trace/kernel/histogram.py. */

#define SUB_BITS 3 /* eight buckets an octave: a bucket is 12.5 % wide, its middle at most 6.25 % off */
#define OCTAVES 38 /* up to 2^40 ns, 18 minutes */
#define BUCKETS (OCTAVES << SUB_BITS)

static __always_inline u32 bucket_of(u64 ns) {
    u32 bucket = ns, power;

    if (ns >= 1 << SUB_BITS) {
        power = log2_of(ns);
        bucket = ((power - SUB_BITS + 1) << SUB_BITS) + ((ns >> (power - SUB_BITS)) & ((1 << SUB_BITS) - 1));
    }
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}
