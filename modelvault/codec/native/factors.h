/* Two factors whose product is nearly what rows of integers are. modelvault/codec/factors.py says how they are found, and
   finds the same. */

#ifndef MODELVAULT_FACTORS_H
#define MODELVAULT_FACTORS_H

#include "kernels.h"

/* How the words of a chunk lie in rows. Matrices of them have more rows and columns, so that loops go by vectors: what is
   there is 0. */
typedef struct {
    size_t columns, first, n;
    size_t rows, down, across; /* rows that have words; and of matrices, rows and columns */
} View;

View view_of(size_t columns, size_t first, size_t n);

/* The power of two that numbers of such a root of the mean square are rounded to; 0 if they are too far off. */
double unit_of(double root);

/* What a few rows tell: the mean of squared cosines between them, the sum of squares, and how many rows have less than a
   quarter of the mean of those. */
typedef struct {
    double cosines, squares;
    int weak;
} Likeness;

Likeness likeness_of(const Kernels *kernels, const int16_t *rows, size_t count, size_t columns);

/* Bytes of scratch memory for the function below. */
size_t factors_scratch(const View *view);

/* Find the factors that are worth their bytes, and return how many directions they have: of `left` a row of `down` for
   each, of `right` one of `across`, with room for DIRECTIONS, and a unit. */
size_t find_factors(const Kernels *kernels, const View *view, const int16_t *numbers, double unit, float *s,
                    int16_t *left, int16_t *right, void *scratch);

#endif
