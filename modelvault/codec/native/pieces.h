/* Words of pieces to residuals and back: the cores of the codecs pieces-delta and pieces. docs/format/codecs.md specifies
   them. */

#ifndef MODELVAULT_PIECES_H
#define MODELVAULT_PIECES_H

#include "spreads.h"

typedef enum { PIECE_APART, PIECE_SAME, PIECE_EQUAL, PIECE_DOUBLING, PIECE_ANCHORED } PieceKind;

/* As `plan.pack` of Python lays it out. */
typedef struct {
    uint32_t words, row, start;
    uint8_t kind, mantissa;
    int16_t exponent;
    double value;
} Piece;

typedef struct {
    Format format;
    size_t n;              /* words */
    const Piece *piece;    /* they have all words */
    size_t pieces;
    const void *reference; /* NULL: there is none */
} PieceTask;

/* Whether pieces are what they may be. */
bool pieces_fit(const PieceTask *task);

/* What the reference of each piece is best multiplied with: modelvault/codec/plan.py says how it is found. The scratch
   memory has FIT_SCRATCH bytes. */
enum { FIT_SAMPLE = 4096, FIT_SCRATCH = 2 * 2 * FIT_SAMPLE * sizeof(double) };
void pieces_fit_factors(const Kernels *kernels, const PieceTask *task, const void *words, double *factors, void *scratch);

size_t pieces_encode_scratch(const PieceTask *task);
size_t pieces_decode_scratch(const PieceTask *task);

/* The longest core that encoding can make. */
size_t pieces_most(const PieceTask *task);

/* Write the core and return its length. A byte for each word that stands on no step of its piece becomes 1 in `marks`,
   any other 0; `any` says whether there are such. */
size_t pieces_encode(const Kernels *kernels, const IntegerTables *tables, const PieceTask *task, const void *words,
                     uint8_t *core, uint8_t *marks, bool *any, void *scratch);

/* Read a core; words of pieces that stand apart become 0. Returns NULL, or what is wrong with it. */
const char *pieces_decode(const Kernels *kernels, const IntegerTables *tables, const PieceTask *task, const uint8_t *core,
                          size_t length, void *words, void *scratch);

#endif
