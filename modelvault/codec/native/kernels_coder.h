/* The entropy coder one token at a time: what every machine can do, and what wider versions do at the ends. */

#include "kernels.h"

/* No branch, here and in decoding: whether a word is due is as good as random. The word before `at` is overwritten. */
static inline uint32_t encode_one(uint32_t state, Division division, uint16_t **at) {
    const uint32_t frequency = division.rest >> 16, due = state >= frequency << 20;
    (*at)[-1] = (uint16_t)state;
    *at -= due;
    state >>= due << 4;
    uint32_t quotient = (uint32_t)((uint64_t)state * division.reciprocal >> (31 + (division.rest >> 11 & 15)));
    return state + quotient * (FREQUENCIES - frequency) + (division.rest & (FREQUENCIES - 1));
}

/* Where words are rarely due, a branch is foreseen nearly always. Elsewhere it would not be, and there is none. */
static inline uint32_t decode_one(uint32_t state, const uint32_t *slots, uint8_t *token, const uint8_t **at,
                                  const bool is_rare) {
    uint32_t slot = slots[state & (FREQUENCIES - 1)];
    *token = (uint8_t)(slot >> 23);
    state = (slot >> 11 & 0xFFF) * (state >> FREQUENCY_BITS) + (slot & (FREQUENCIES - 1));
    uint16_t word;
    if (is_rare) {
        if (__builtin_expect(state >= STATE_LOW, 1)) return state;
        memcpy(&word, *at, sizeof word);
        *at += 2;
        return state << 16 | word;
    }
    memcpy(&word, *at, sizeof word);
    uint32_t due = state < STATE_LOW;
    *at += 2 * due;
    return (state << (due << 4)) | (word & (0u - due));
}

enum { RARELY_DUE = 16 }; /* one token of so many takes a word */

/* Whole rounds of all lanes. Where `lanes` is a constant, states stay in registers. */
__attribute__((always_inline)) static inline uint16_t *encode_rounds(const uint8_t *tokens, const uint8_t *tables,
                                                                     size_t n, const Division *divisions, int stride,
                                                                     uint32_t *states, const int lanes, uint16_t *end) {
    const int stride_log = floor_log2((uint32_t)stride);
    uint32_t state[MAX_LANES];
    for (int lane = 0; lane < lanes; lane++) state[lane] = states[lane];
    for (size_t i = n; i > 0;) {
        i -= (size_t)lanes;
#pragma GCC unroll 8
        for (int lane = lanes - 1; lane >= 0; lane--) {
            const size_t at = i + (size_t)lane;
            state[lane] = encode_one(state[lane], divisions[(uint32_t)tables[at] << stride_log | tokens[at]], &end);
        }
    }
    for (int lane = 0; lane < lanes; lane++) states[lane] = state[lane];
    return end;
}

static uint16_t *encode_plain(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions,
                              int stride, uint32_t *states, int lanes, uint16_t *end) {
    const size_t whole = n & ~(size_t)(lanes - 1);
    for (int lane = 0; lane < lanes; lane++) states[lane] = STATE_LOW;
    for (size_t i = n; i-- > whole;) {
        states[i - whole] = encode_one(STATE_LOW, divisions[tables[i] * stride + tokens[i]], &end);
    }
    if (lanes == 8) return encode_rounds(tokens, tables, whole, divisions, stride, states, 8, end);
    if (lanes == 4) return encode_rounds(tokens, tables, whole, divisions, stride, states, 4, end);
    return encode_rounds(tokens, tables, whole, divisions, stride, states, lanes, end);
}

__attribute__((always_inline)) static inline const uint8_t *decode_rounds(uint8_t *restrict tokens, const uint8_t *tables,
                                                                          size_t n, const uint32_t *slots,
                                                                          uint32_t *states, const int lanes,
                                                                          const bool is_rare, const uint8_t *at,
                                                                          const uint8_t *end) {
    uint32_t state[MAX_LANES];
    for (int lane = 0; lane < lanes; lane++) state[lane] = states[lane];
    for (size_t i = 0; i < n; i += (size_t)lanes) {
        if (at > end) return NULL;
#pragma GCC unroll 8
        for (int lane = 0; lane < lanes; lane++) {
            const uint32_t *table = slots + (size_t)tables[i + (size_t)lane] * FREQUENCIES;
            state[lane] = decode_one(state[lane], table, &tokens[i + (size_t)lane], &at, is_rare);
        }
    }
    for (int lane = 0; lane < lanes; lane++) states[lane] = state[lane];
    return at;
}

#define DECODE(lanes, is_rare) decode_rounds(tokens, tables, whole, slots, states, lanes, is_rare, at, end)

static const uint8_t *decode_plain(uint8_t *tokens, const uint8_t *tables, size_t n, const uint32_t *slots,
                                   uint32_t *states, int lanes, const uint8_t *at, const uint8_t *end) {
    const size_t whole = n & ~(size_t)(lanes - 1);
    if ((size_t)(end - at) / 2 < n / RARELY_DUE) {
        at = lanes == 8   ? DECODE(8, true)
             : lanes == 4 ? DECODE(4, true)
             : lanes == 2 ? DECODE(2, true)
             : lanes == 1 ? DECODE(1, true)
                          : DECODE(lanes, true);
    } else {
        at = lanes == 8 ? DECODE(8, false) : lanes == 4 ? DECODE(4, false) : DECODE(lanes, false);
    }
    if (!at || at > end) return NULL;
    for (size_t i = whole; i < n; i++) {
        states[i - whole] = decode_one(states[i - whole], slots + (size_t)tables[i] * FREQUENCIES, &tokens[i], &at, false);
    }
    return at > end ? NULL : at;
}

#undef DECODE

enum { CODED_TILE = 512 };

/* What the encoder needs to know of each token. */
static inline void look_up(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions, int stride,
                           Division *found) {
    const int stride_log = floor_log2((uint32_t)stride);
    for (size_t i = 0; i < n; i++) found[i] = divisions[(uint32_t)tables[i] << stride_log | tokens[i]];
}
