/* Chunks to bodies of the codecs residual-rans and levels-rans, and back. docs/format/codecs.md specifies the bodies. */

#ifndef MODELVAULT_CHUNK_H
#define MODELVAULT_CHUNK_H

#include "kernels.h"

typedef struct {
    Format format;
    size_t n;               /* words */
    const Predictor *predictor;
    int predictors;         /* 0 for keyframes */
    const void *const *references;
} Task;

/* Where a chunk lies among the rows of its tensor: hints of the encoder. */
typedef struct {
    size_t row, start;
} Place;

/* Once, before the others. */
void chunk_prepare(void);

/* The binary logarithm of how many states code so many tokens of words. */
int lanes_log_of(size_t coded, size_t word_bytes);

/* Bytes of scratch memory that the functions below need. */
size_t encode_scratch(const Task *task);
size_t decode_scratch(const Task *task);

/* Bytes behind the capacity of a body that may be written to. */
enum { BODY_ROOM = 16 };

/* Write a body, without the chunk's tail, and return its length; 0 if it would not be shorter than `capacity`, or if of
   residuals the tails and two bits for each token alone take `limit` bytes. */
size_t encode_body(const Kernels *kernels, const Task *task, Place place, const void *words, uint8_t *body,
                   size_t capacity, size_t limit, void *scratch);

/* Read a body of `length` bytes, without the chunk's tail. Returns NULL, or what is wrong with it. */
const char *decode_body(const Kernels *kernels, const Task *task, const uint8_t *body, size_t length, void *words,
                        void *scratch);

/* Sums of tokens: sums[predictor][block], for blocks of `length` words. */
void block_costs(const Kernels *kernels, const Task *task, const void *words, size_t length, uint32_t *sums,
                 void *scratch);

#endif
