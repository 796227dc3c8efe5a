/* The entropy coder one token at a time: what every machine can do, and what wider versions do at the ends. */

#include "kernels.h"

static inline uint32_t encode_one(uint32_t state, Division division, uint16_t **at) {
    uint32_t frequency = division.rest >> 16;
    if (state > (frequency << 20) - 1) {
        *--*at = (uint16_t)state;
        state >>= 16;
    }
    uint32_t quotient = (uint32_t)((uint64_t)state * division.reciprocal >> (31 + (division.rest >> 11 & 15)));
    return state + quotient * (FREQUENCIES - frequency) + (division.rest & (FREQUENCIES - 1));
}

static inline uint32_t decode_one(uint32_t state, const uint32_t *slots, uint8_t *token, const uint8_t **at) {
    uint32_t slot = slots[state & (FREQUENCIES - 1)];
    *token = (uint8_t)(slot >> 23);
    state = (slot >> 11 & 0xFFF) * (state >> FREQUENCY_BITS) + (slot & (FREQUENCIES - 1));
    /* No branch: whether a word is due is as good as random. */
    uint16_t word;
    memcpy(&word, *at, sizeof word);
    uint32_t due = state < STATE_LOW;
    *at += 2 * due;
    return (state << (due << 4)) | (word & (0u - due));
}

static uint16_t *encode_plain(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions,
                              int stride, uint32_t *states, int lanes, uint16_t *end) {
    for (int lane = 0; lane < lanes; lane++) states[lane] = STATE_LOW;
    for (size_t i = n; i-- > 0;) {
        size_t lane = i & (size_t)(lanes - 1);
        states[lane] = encode_one(states[lane], divisions[tables[i] * stride + tokens[i]], &end);
    }
    return end;
}

static const uint8_t *decode_plain(uint8_t *tokens, const uint8_t *tables, size_t n, const uint32_t *slots,
                                   uint32_t *states, int lanes, const uint8_t *at, const uint8_t *end) {
    size_t i = 0;
    for (; i + (size_t)lanes <= n; i += (size_t)lanes) {
        if (at > end) return NULL;
        for (int lane = 0; lane < lanes; lane++) {
            const uint32_t *table = slots + (size_t)tables[i + (size_t)lane] * FREQUENCIES;
            states[lane] = decode_one(states[lane], table, &tokens[i + (size_t)lane], &at);
        }
    }
    if (at > end) return NULL;
    for (int lane = 0; i < n; i++, lane++) {
        states[lane] = decode_one(states[lane], slots + (size_t)tables[i] * FREQUENCIES, &tokens[i], &at);
    }
    return at > end ? NULL : at;
}
