/* Words to the nearest multiples of a step within a limit: modelvault/codec/bounds.py says what is measured. */

#ifndef MODELVAULT_ROUNDING_H
#define MODELVAULT_ROUNDING_H

#include "kernels.h"

typedef struct {
    double most, most_share; /* the largest difference, and the largest as a share of the magnitude */
    size_t changed, kept;    /* words that differ, and words for which the limit does not hold */
} Measured;

Measured round_words(const Kernels *kernels, Format format, const void *words, size_t n, double step, double limit,
                     void *rounded);

#endif
