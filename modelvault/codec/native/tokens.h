/* What the entropy coder left of tokens: its states, the length of its stream in words, and the stream. */

#ifndef MODELVAULT_TOKENS_H
#define MODELVAULT_TOKENS_H

#include "bits.h"
#include "kernels.h"

enum { PADDING = 64 }; /* bytes behind a stream that the decoder may look at */

/* Bytes that `read_tokens` needs for a copy of the stream of n tokens. */
static inline size_t stream_room(size_t n) { return 2 * n + PADDING + 4; }

/* Decode n tokens, which have at most `most` words, and leave `at` behind them. Returns NULL, or what is wrong. */
static inline const char *read_tokens(const Kernels *kernels, uint8_t *tokens, const uint8_t *tables, size_t n,
                                      const uint32_t *slots, int lanes, size_t most, const uint8_t **at,
                                      const uint8_t *end, uint8_t *copy) {
    uint32_t states[MAX_LANES];
    size_t words;
    if ((size_t)(end - *at) < 4 * (size_t)lanes) return "it ends too early";
    memcpy(states, *at, 4 * (size_t)lanes);
    *at += 4 * lanes;
    for (int lane = 0; lane < lanes; lane++) {
        if (states[lane] < STATE_LOW || states[lane] >> 31) return "a state is out of range";
    }
    if (!take_uint(at, end, &words) || words > (size_t)(end - *at) / 2) return "it ends too early";
    if (words > most) return "it has more words of the entropy coder than tokens";
    const uint8_t *stream = *at;
    *at += 2 * words;
    if (end - *at < PADDING + 2) {
        memcpy(copy, stream, 2 * words);
        memset(copy + 2 * words, 0, PADDING + 2);
        stream = copy;
    }
    const uint8_t *left = kernels->decode(tokens, tables, n, slots, states, lanes, stream, stream + 2 * words);
    if (left != stream + 2 * words) return "its tokens do not end where they should";
    for (int lane = 0; lane < lanes; lane++) {
        if (states[lane] != STATE_LOW) return "a state does not end as it should";
    }
    return NULL;
}

#endif
