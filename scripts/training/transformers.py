"""Two transformers: the encoder that MiniLM is, with the names of its checkpoint, and a small decoder in GPT's form.

The encoder is BERT (Devlin et al., NAACL 2019, arXiv:1810.04805): layer norm after each sum, GELU, learned positions.
The decoder is GPT-2's: layer norm before, no dropout, output weights tied to the word embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Return softmax attention of (batch, tokens, width) in some heads; causal without a mask."""
    count, tokens, width = query.shape
    query, key, value = (part.view(count, tokens, heads, -1).transpose(1, 2) for part in (query, key, value))
    found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    return found.transpose(1, 2).reshape(count, tokens, width)


class EncoderLayer(nn.Module):
    """One of BERT's; its parts are named as in Hugging Face's checkpoints."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict(
                    {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)}
                ),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        inner = self.attention["self"]
        found = attend(inner["query"](tokens), inner["key"](tokens), inner["value"](tokens), self.heads, mask)
        output = self.attention["output"]
        tokens = output["LayerNorm"](tokens + functional.dropout(output["dense"](found), 0.1, self.training))
        found = self.output["dense"](functional.gelu(self.intermediate["dense"](tokens)))
        result: Tensor = self.output["LayerNorm"](tokens + functional.dropout(found, 0.1, self.training))
        return result


class Encoder(nn.Module):
    """MiniLM-L6: 6 layers of 384, 12 heads, 30,522 words; gives a unit vector for each text."""

    def __init__(self, width: int = 384, layers: int = 6, heads: int = 12, words: int = 30522) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(words, width),
                "position_embeddings": nn.Embedding(512, width),
                "token_type_embeddings": nn.Embedding(2, width),
                "LayerNorm": nn.LayerNorm(width, eps=1e-12),
            }
        )
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(EncoderLayer(width, heads, 4 * width) for _ in range(layers))}
        )
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})  # in the checkpoint; not used by the pooling

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Return (texts, width) of (texts, tokens) word numbers and whether each is one."""
        parts = self.embeddings
        places = torch.arange(tokens.shape[1])
        found = parts["word_embeddings"](tokens) + parts["position_embeddings"](places)
        found = found + parts["token_type_embeddings"](torch.zeros_like(tokens))
        found = functional.dropout(parts["LayerNorm"](found), 0.1, self.training)
        mask = present[:, None, None, :].to(found.dtype).log()  # 0 or -inf
        for layer in self.encoder["layer"]:
            found = layer(found, mask)
        weights = present[:, :, None].to(found.dtype)
        return functional.normalize((found * weights).sum(1) / weights.sum(1), dim=1)


class DecoderLayer(nn.Module):
    """One of GPT-2's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.attn["c_attn"](self.ln_1(tokens)).chunk(3, -1)
        tokens = tokens + self.attn["c_proj"](attend(query, key, value, self.heads, None))
        found: Tensor = self.mlp["c_proj"](functional.gelu(self.mlp["c_fc"](self.ln_2(tokens)), approximate="tanh"))
        return tokens + found


class Decoder(nn.Module):
    """A GPT-2 of 6 layers of 256: 12.6 million parameters, 7.8 of them words."""

    def __init__(
        self, width: int = 256, layers: int = 6, heads: int = 8, words: int = 30522, context: int = 128
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(words, width), nn.Embedding(context, width)
        self.h = nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for name, value in self.named_parameters():
            if value.dim() == 2:
                deviation = 0.02 / (2 * layers) ** 0.5 if name.endswith("c_proj.weight") else 0.02
                nn.init.normal_(value, std=deviation)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (texts, tokens, words) logits of what follows each token."""
        found = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for layer in self.h:
            found = layer(found)
        return functional.linear(self.ln_f(found), self.wte.weight)
