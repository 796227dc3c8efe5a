/* The scales of blocks. A block has a few dozen to 1024 words, and most of this is done for each: with BYTE_VECTORS, what
   is done word by word is another file's. */

#include "kernels_loops.h"

#ifndef BYTE_VECTORS
static inline int highest_level(const uint8_t *levels, size_t n) {
    uint8_t highest = 0;
    for (size_t i = 0; i < n; i++) highest = levels[i] > highest ? levels[i] : highest;
    return highest;
}

/* How far levels are below the highest, 31 at most, in all. */
static inline uint32_t sum_below(const uint8_t *levels, size_t n, int highest) {
    uint32_t total = 0;
    for (size_t i = 0; i < n; i++) {
        const uint8_t below = (uint8_t)(highest - levels[i]);
        total += below < 31 ? below : 31;
    }
    return total;
}

/* Count levels below the highest one: counts[min(31, highest - level)]; `last` becomes the last that is not 0. */
static inline void count_levels(const uint8_t *levels, size_t n, int highest, uint32_t counts[32], int *last) {
    uint32_t other[32] = {0}; /* two sets of counters: neighbours often hit the same one */
    memset(counts, 0, 32 * sizeof *counts);
    for (size_t i = 0; i + 1 < n; i += 2) {
        int one = highest - levels[i], two = highest - levels[i + 1];
        counts[one < 31 ? one : 31]++;
        other[two < 31 ? two : 31]++;
    }
    if (n & 1) {
        int one = highest - levels[n - 1];
        counts[one < 31 ? one : 31]++;
    }
    for (int i = 0; i < 32; i++) counts[i] += other[i];
    *last = 31;
    while (*last && !counts[*last]) --*last;
}

/* 256 times the sum of tokens to expect of a block. A block has at most 1024 words: this fits. */
static inline uint32_t expected_tokens(const uint32_t counts[32], int last, int context) {
    const uint16_t *expected = EXPECTED + (context - LEAST_CONTEXT);
    uint32_t total = 0;
    for (int level = 0; level <= last; level++) total += counts[level] * expected[2 * level];
    return total;
}

/* The same for GUESSES contexts from `start` on; returns how many of them expect less than `wanted`. */
static inline int expect_around(const uint32_t counts[32], int last, int start, uint32_t wanted, uint32_t sums[GUESSES]) {
    int less = 0;
    for (int i = 0; i < GUESSES; i++) {
        sums[i] = expected_tokens(counts, last, start + i);
        less += sums[i] < wanted;
    }
    return less;
}

/* Levels to contexts, for a block whose highest level has context `context`. */
static inline void set_contexts(const uint8_t *levels, size_t n, int highest, int context, uint8_t *contexts) {
    const int at = context + 2 * highest;
    for (size_t i = 0; i < n; i++) {
        int found = at - 2 * (int)levels[i];
        found = found < 0 ? 0 : found;
        contexts[i] = (uint8_t)(found > CONTEXTS - 1 ? CONTEXTS - 1 : found);
    }
}
#endif

/* Where tokens are this large on average, in 256ths, it is enough to know how far levels are below the highest on
   average; of a short block if they are SOME_TOKENS. */
enum { MANY_TOKENS = 256, SOME_TOKENS = 64, SHORT_BLOCK = 256 };

/* The context, in 16ths, at which words are expected to have so large a token on average, if their levels are those of a
   normal distribution: eight steps of the average an octave, from SOME_TOKENS to 2048. Beyond, 16 more than the token.
   modelvault/codec/residual_rans.py says what it is worth. */
static const int16_t TYPICAL[] = {
    132, 138, 144, 149, 154, 158, 162, 166, 171, 178, 184, 189, 194, 199, 203, 207, 213, 220, 226, 232,
    237, 243, 247, 252, 258, 266, 273, 280, 287, 293, 299, 304, 313, 323, 333, 342, 352, 361, 369, 378,
};

/* The context of the highest level: `mean` 256ths of a token a word, `below` levels below the highest in all. */
static int typical_scale(uint32_t mean, uint32_t below, uint32_t n) {
    const int octave = floor_log2(mean / SOME_TOKENS);
    const uint32_t step = (mean * 8 / SOME_TOKENS >> octave) + 8 * (uint32_t)octave - 8;
    const int typical = mean < 2048 ? TYPICAL[step] : (int)(mean / 16) + 256;
    const int context = (typical + 8 - (int)(32 * below / n)) >> 4;
    return context < CONTEXTS - 1 ? context : CONTEXTS - 1;
}

/* The scale under which a block's tokens add up to what is expected of its levels: the context of its highest level. It
   is the least context that expects enough, or the one below if that is nearer. */
static int fit_scale(const uint32_t counts[32], int last, uint32_t n, uint32_t tokens) {
    const uint32_t wanted = 256 * tokens;
    uint32_t levels = 0;
    for (int level = 0; level <= last; level++) levels += counts[level] * (uint32_t)level;
    /* Right where tokens are large, too high where they are small. What all contexts around it expect is added up at
       once, by vectors; nearly always one of them is it. */
    int start = (int)(tokens / n) - (int)(2 * levels / n) + 16 - GUESSES_BELOW;
    start = start < LEAST_CONTEXT ? LEAST_CONTEXT : start > CONTEXTS - GUESSES ? CONTEXTS - GUESSES : start;
    uint32_t sums[GUESSES];
    const int least = expect_around(counts, last, start, wanted, sums);
    if (least && least < GUESSES) return start + least - (wanted - sums[least - 1] < sums[least] - wanted);

    int low = LEAST_CONTEXT, high = CONTEXTS - 1;
    if (expected_tokens(counts, last, high) < wanted) return high;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (expected_tokens(counts, last, middle) >= wanted) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    if (low > LEAST_CONTEXT) {
        uint32_t above = expected_tokens(counts, last, low) - wanted;
        uint32_t below = wanted - expected_tokens(counts, last, low - 1);
        if (below < above) low--;
    }
    return low;
}

static size_t scale_blocks(const Blocks *blocks, uint8_t *levels, uint8_t *tokens, void *values, int word_bytes,
                           uint16_t *scales) {
    const size_t w = (size_t)word_bytes;
    size_t coded = 0;
    for (size_t i = 0; i < blocks->count; i++) {
        const size_t start = block_start(blocks, i), count = block_length(blocks, i);
        const uint32_t total = sum(tokens + start, count);
        const uint32_t mean = 256 * total / (uint32_t)count;
        int context;
        scales[i] = 0;
        if (!total) continue;
        const int highest = highest_level(levels + start, count);
        if (mean >= (count < SHORT_BLOCK ? SOME_TOKENS : MANY_TOKENS)) {
            context = typical_scale(mean, sum_below(levels + start, count, highest), (uint32_t)count);
        } else {
            uint32_t counts[32];
            int last;
            count_levels(levels + start, count, highest, counts, &last);
            context = fit_scale(counts, last, (uint32_t)count, total);
        }
        context = context < -2 * highest ? -2 * highest : context; /* scales are at least 1 */
        scales[i] = (uint16_t)(context + 1 + 2 * highest);
        set_contexts(levels + start, count, highest, context, levels + coded);
        if (coded != start) {
            memmove(tokens + coded, tokens + start, count);
            memmove((uint8_t *)values + coded * w, (uint8_t *)values + start * w, count * w);
        }
        coded += count;
    }
    return coded;
}
