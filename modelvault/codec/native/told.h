/* What is told of pieces: how many words each has, which steps they are on, what their reference is multiplied with.
   docs/format/codecs.md specifies it. */

#ifndef MODELVAULT_TOLD_H
#define MODELVAULT_TOLD_H

#include "bits.h"
#include "pieces.h"

enum { MOST_GRIDS = 7, MOST_TOLD = 20 }; /* bytes that a piece takes at most; so many more tell the steps there are */

/* Whether pieces can be told: none has no words or steps that are beyond all, and they are on few kinds of steps. */
bool pieces_can_be_told(const Piece *pieces, size_t count);

/* There is room for MOST_TOLD * (count + MOST_GRIDS) bytes. Returns how many there are. */
size_t pieces_tell(const Piece *pieces, size_t count, bool delta, uint8_t *told);

/* Pieces while they are read. */
typedef struct {
    BitReader reader;
    Piece choices[2 + MOST_GRIDS]; /* apart, those of the reference, and on each kind of steps */
    int count;                     /* of choices */
    size_t words, pieces;
    bool delta;
} ToldReader;

/* Read how many pieces there are, `words` together: `told->pieces`, for which there must be room then. Both return NULL,
   or what is wrong. */
const char *told_begin(ToldReader *told, const uint8_t *at, const uint8_t *end, size_t words, bool delta);
const char *told_pieces(ToldReader *told, Piece *pieces, const uint8_t **at);

#endif
