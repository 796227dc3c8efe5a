/* Streams of bits, the lowest first, and integers between them. */

#ifndef MODELVAULT_BITS_H
#define MODELVAULT_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Integers of seven bits a byte, the lowest first, in the shortest form. */
static inline bool put_uint(uint8_t **at, const uint8_t *end, size_t value) {
    do {
        if (*at == end) return false;
        *(*at)++ = (uint8_t)((value & 0x7F) | (size_t)(value > 0x7F) << 7);
        value >>= 7;
    } while (value);
    return true;
}

static inline bool take_uint(const uint8_t **at, const uint8_t *end, size_t *value) {
    *value = 0;
    for (int shift = 0; shift < 35; shift += 7) {
        if (*at == end) return false;
        uint8_t byte = *(*at)++;
        *value |= (size_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) return byte || !shift;
    }
    return false;
}

typedef struct {
    uint8_t *at, *end;
    uint64_t held;
    int count;
    bool full; /* something did not fit */
} BitWriter;

/* Of at most 56 bits. */
static inline void bits_put(BitWriter *writer, uint64_t value, int count) {
    writer->held |= value << writer->count;
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

/* Values below 2^25. */
static inline void bits_put_golomb(BitWriter *writer, uint32_t value, int order) {
    const uint32_t high = (value >> order) + 1, low = value & ((1u << order) - 1);
    const int zeros = 31 - __builtin_clz(high);
    const uint64_t above = (uint64_t)low << zeros | (high & ((1u << zeros) - 1));
    bits_put(writer, (above << 1 | 1) << zeros, 2 * zeros + 1 + order);
}

typedef struct {
    const uint8_t *at, *end;
    uint64_t held; /* no bits above the lowest `count` */
    int count;
    bool failed; /* the stream ended, or holds what it must not */
} BitReader;

/* Have 32 bits at hand and more, as far as there are so many. */
static inline void bits_fill(BitReader *reader) {
    if (reader->count >= 32) return;
    if (reader->end - reader->at >= 4) {
        uint32_t more;
        memcpy(&more, reader->at, sizeof more);
        reader->held |= (uint64_t)more << reader->count;
        reader->at += sizeof more;
        reader->count += 32;
    }
    while (reader->count < 32 && reader->at < reader->end) {
        reader->held |= (uint64_t)*reader->at++ << reader->count;
        reader->count += 8;
    }
}

/* At most 32 bits. */
static inline uint32_t bits_take(BitReader *reader, int count) {
    bits_fill(reader);
    if (reader->count < count) {
        reader->failed = true;
        return 0;
    }
    uint32_t value = (uint32_t)(reader->held & (((uint64_t)1 << count) - 1));
    reader->held >>= count;
    reader->count -= count;
    return value;
}

static inline uint32_t bits_take_golomb(BitReader *reader, int order) {
    bits_fill(reader);
    const int zeros = reader->held ? __builtin_ctzll(reader->held) : 64;
    if (zeros > 24) { /* or what is at hand is all there is */
        reader->failed = true;
        return 0;
    }
    reader->held >>= zeros + 1;
    reader->count -= zeros + 1;
    uint32_t high = (1u << zeros) + bits_take(reader, zeros);
    return ((high - 1) << order) + bits_take(reader, order);
}

/* Whether what fills up the last byte is zero, and nothing failed; `at` becomes where the next byte is. */
static inline bool bits_end(const BitReader *reader, const uint8_t **at) {
    *at = reader->at - reader->count / 8;
    return !reader->failed && !(reader->held & ((1u << reader->count % 8) - 1));
}

static inline uint32_t zigzag(int32_t value) { return ((uint32_t)value << 1) ^ (uint32_t)(value >> 31); }

static inline int32_t unzigzag(uint32_t value) { return (int32_t)((value >> 1) ^ (0u - (value & 1))); }

#endif
