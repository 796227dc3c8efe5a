/* Streams of bits, the lowest first. */

#ifndef MODELVAULT_BITS_H
#define MODELVAULT_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t *at, *end;
    uint64_t held;
    int count;
    bool full; /* something did not fit */
} BitWriter;

static inline void bits_put(BitWriter *writer, uint32_t value, int count) {
    writer->held |= (uint64_t)value << writer->count;
    writer->count += count;
    while (writer->count >= 8) {
        if (writer->at == writer->end) {
            writer->full = true;
            writer->count = 0;
            writer->held = 0;
            return;
        }
        *writer->at++ = (uint8_t)writer->held;
        writer->held >>= 8;
        writer->count -= 8;
    }
}

/* Fill up the last byte with zeros. */
static inline void bits_close(BitWriter *writer) {
    if (writer->count) bits_put(writer, 0, 8 - writer->count);
}

static inline int golomb_bits(uint32_t value, int order) {
    return 2 * (31 - __builtin_clz((value >> order) + 1)) + 1 + order;
}

static inline void bits_put_golomb(BitWriter *writer, uint32_t value, int order) {
    uint32_t high = (value >> order) + 1;
    int zeros = 31 - __builtin_clz(high);
    bits_put(writer, 0, zeros);
    bits_put(writer, 1, 1);
    bits_put(writer, high & ((1u << zeros) - 1), zeros);
    bits_put(writer, value & ((1u << order) - 1), order);
}

typedef struct {
    const uint8_t *at, *end;
    uint64_t held;
    int count;
    bool failed; /* the stream ended, or holds what it must not */
} BitReader;

static inline uint32_t bits_take(BitReader *reader, int count) {
    while (reader->count < count) {
        if (reader->at == reader->end) {
            reader->failed = true;
            return 0;
        }
        reader->held |= (uint64_t)*reader->at++ << reader->count;
        reader->count += 8;
    }
    uint32_t value = (uint32_t)(reader->held & (((uint64_t)1 << count) - 1));
    reader->held >>= count;
    reader->count -= count;
    return value;
}

static inline uint32_t bits_take_golomb(BitReader *reader, int order) {
    int zeros = 0;
    while (!bits_take(reader, 1)) {
        if (reader->failed || ++zeros > 24) {
            reader->failed = true;
            return 0;
        }
    }
    uint32_t high = (1u << zeros) + bits_take(reader, zeros);
    return ((high - 1) << order) + bits_take(reader, order);
}

/* Whether what fills up the last byte is zero, and nothing failed. */
static inline bool bits_end(const BitReader *reader) { return !reader->failed && reader->held == 0; }

static inline uint32_t zigzag(int32_t value) { return ((uint32_t)value << 1) ^ (uint32_t)(value >> 31); }

static inline int32_t unzigzag(uint32_t value) { return (int32_t)((value >> 1) ^ (0u - (value & 1))); }

#endif
