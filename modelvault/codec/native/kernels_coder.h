/* The entropy coder one token at a time: what every machine can do, and what wider versions do at the ends. */

#include "kernels.h"

/* The word before `at` is overwritten. Where words are rarely due, a branch is foreseen nearly always, here and in
   decoding. Elsewhere whether one is due is as good as random, and there is none. */
static inline uint32_t encode_one(uint32_t state, Division division, uint16_t **at, const bool is_rare) {
    const uint32_t frequency = division.rest >> 16, due = state >= frequency << 20;
    (*at)[-1] = (uint16_t)state;
    if (is_rare) {
        if (__builtin_expect(due, 0)) {
            (*at)--;
            state >>= 16;
        }
    } else {
        *at -= due;
        state >>= due << 4;
    }
    uint32_t quotient = (uint32_t)((uint64_t)state * division.reciprocal >> (32 + (division.rest >> 12 & 15)));
    return state + quotient * (FREQUENCIES - frequency) + (division.rest & 0xFFF);
}

static inline uint32_t decode_one(uint32_t state, const uint32_t *slots, uint8_t *token, const uint8_t **at) {
    uint32_t slot = slots[state & (FREQUENCIES - 1)];
    *token = (uint8_t)(slot >> 23);
    state = (slot >> 11 & 0xFFF) * (state >> FREQUENCY_BITS) + (slot & (FREQUENCIES - 1));
    uint16_t word;
    memcpy(&word, *at, sizeof word);
    uint32_t due = state < STATE_LOW;
    *at += 2 * due;
    return (state << (due << 4)) | (word & (0u - due));
}

/* Where words are rarely due, it is foreseen as well that the token is the one in the middle of all slots, which a token
   that takes more than half of them is. Then no state waits for its slot. */
static inline uint32_t decode_usual(uint32_t state, const uint32_t *slots, uint8_t *token, const uint8_t **at) {
    const uint32_t usual = slots[FREQUENCIES / 2], frequency = usual >> 11 & 0xFFF;
    const uint32_t inside = (state & (FREQUENCIES - 1)) - FREQUENCIES / 2 + (usual & (FREQUENCIES - 1));
    if (__builtin_expect(inside < frequency, 1)) {
        *token = (uint8_t)(usual >> 23);
        state = frequency * (state >> FREQUENCY_BITS) + inside;
    } else {
        const uint32_t slot = slots[state & (FREQUENCIES - 1)];
        *token = (uint8_t)(slot >> 23);
        state = (slot >> 11 & 0xFFF) * (state >> FREQUENCY_BITS) + (slot & (FREQUENCIES - 1));
    }
    if (__builtin_expect(state >= STATE_LOW, 1)) return state;
    uint16_t word;
    memcpy(&word, *at, sizeof word);
    *at += 2;
    return state << 16 | word;
}

enum { RARELY_DUE = 16 }; /* one token of so many takes a word */

/* Whole rounds of all lanes. Where `lanes` is a constant, states stay in registers. */
__attribute__((always_inline)) static inline uint16_t *encode_rounds(const uint8_t *tokens, const uint8_t *tables,
                                                                     size_t n, const Division *divisions, int stride,
                                                                     uint32_t *states, const int lanes,
                                                                     const bool is_rare, uint16_t *end) {
    const int stride_log = floor_log2((uint32_t)stride);
    uint32_t state[MAX_LANES];
    for (int lane = 0; lane < lanes; lane++) state[lane] = states[lane];
    for (size_t i = n; i > 0;) {
        i -= (size_t)lanes;
#pragma GCC unroll 8
        for (int lane = lanes - 1; lane >= 0; lane--) {
            const size_t at = i + (size_t)lane;
            const Division division = divisions[(uint32_t)tables[at] << stride_log | tokens[at]];
            state[lane] = encode_one(state[lane], division, &end, is_rare);
        }
    }
    for (int lane = 0; lane < lanes; lane++) states[lane] = state[lane];
    return end;
}

/* As far as some of the tokens tell. */
static bool are_rarely_due(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions, int stride) {
    enum { SOME = 64 };
    uint32_t frequencies = 0, count = 0;
    for (size_t i = 0; i < n; i += n / SOME | 1, count++) frequencies += divisions[tables[i] * stride + tokens[i]].rest >> 16;
    return frequencies > count * (FREQUENCIES / 2 + FREQUENCIES / 8);
}

#define ENCODE(lanes, is_rare) encode_rounds(tokens, tables, whole, divisions, stride, states, lanes, is_rare, end)

static uint16_t *encode_plain(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions,
                              int stride, uint32_t *states, int lanes, uint16_t *end) {
    const size_t whole = n & ~(size_t)(lanes - 1);
    for (int lane = 0; lane < lanes; lane++) states[lane] = STATE_LOW;
    for (size_t i = n; i-- > whole;) {
        states[i - whole] = encode_one(STATE_LOW, divisions[tables[i] * stride + tokens[i]], &end, false);
    }
    if (are_rarely_due(tokens, tables, whole, divisions, stride)) {
        return lanes == 8   ? ENCODE(8, true)
               : lanes == 4 ? ENCODE(4, true)
               : lanes == 2 ? ENCODE(2, true)
               : lanes == 1 ? ENCODE(1, true)
                            : ENCODE(lanes, true);
    }
    return lanes == 8 ? ENCODE(8, false) : lanes == 4 ? ENCODE(4, false) : ENCODE(lanes, false);
}

#undef ENCODE

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
            uint8_t *token = &tokens[i + (size_t)lane];
            state[lane] = is_rare ? decode_usual(state[lane], table, token, &at) : decode_one(state[lane], table, token, &at);
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
        states[i - whole] = decode_one(states[i - whole], slots + (size_t)tables[i] * FREQUENCIES, &tokens[i], &at);
    }
    return at > end ? NULL : at;
}

#undef DECODE

enum { CODED_TILE = 512 };

/* Where among the divisions each token's is, of at most CODED_TILE. */
static inline void find_places(const uint8_t *tokens, const uint8_t *tables, size_t n, int stride, uint16_t *place) {
    const uint16_t each = (uint16_t)stride;
    for (size_t i = 0; i < n; i++) place[i] = (uint16_t)(tables[i] * each + tokens[i]);
}
