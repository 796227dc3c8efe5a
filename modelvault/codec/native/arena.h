/* Scratch memory, handed out in pieces that begin at multiples of 64 bytes. */

#ifndef MODELVAULT_ARENA_H
#define MODELVAULT_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t *at;
} Arena;

/* What a piece of so many bytes takes. */
static inline size_t rounded(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

static inline void *take(Arena *arena, size_t bytes) {
    void *piece = arena->at;
    arena->at += rounded(bytes);
    return piece;
}

#endif
