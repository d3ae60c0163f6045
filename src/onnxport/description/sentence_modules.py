"""The modules of sentence-transformers, as values: other files read them from a checkpoint, and build PyTorch modules.

Modules exchange named features, as in sentence-transformers 6: each reads some, and writes one or more.
"""

from __future__ import annotations

from dataclasses import dataclass

INPUT_IDS, MASK, PROMPT_LENGTH = "input_ids", "attention_mask", "prompt_length"
TOKENS, SENTENCE, SCORES, LOGITS = "token_embeddings", "sentence_embedding", "scores", "causal_logits"
LAYERS = "all_layer_embeddings"
QUERY_MASK, DOCUMENT_MASK = "query_mask", "document_mask"
"""Features that are inputs, hidden states or results, by the names of sentence-transformers; the last two are ours."""
RESULTS = (TOKENS, SENTENCE, SCORES, QUERY_MASK, DOCUMENT_MASK)
"""Features that a graph returns, in order."""

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Pooling modes: the first token, the maximum, the mean, the sum divided by the square root of the number of tokens,
the mean with weights 1, 2, 3 … from the first token on, the last token."""
HEAD = "sentence_head"
"""Attribute of the model with the modules after it, and so the prefix of their parameters."""


@dataclass(frozen=True)
class SequencePooling:
    """Pool the token embeddings of a sequence; the base of modules that do."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Features that it reads."""
        return (TOKENS, MASK)

    @property
    def writes(self) -> tuple[str, ...]:
        """Features that it writes."""
        return (SENTENCE,)


@dataclass(frozen=True)
class Pooling(SequencePooling):
    """Pool the token embeddings of a sequence to one embedding.

    Attributes:
        modes: modes in `POOLING_MODES`; the results of several are concatenated.
        include_prompt: whether the tokens of the prompt are pooled, too; if not, their number is an input.
    """

    modes: tuple[str, ...]
    include_prompt: bool = True


@dataclass(frozen=True)
class Transform:
    """Compute a feature from another one; the base of modules that do.

    Attributes:
        source: feature that it reads.
        target: feature that it writes.
    """

    source: str = SENTENCE
    target: str = SENTENCE

    @property
    def reads(self) -> tuple[str, ...]:
        """Features that it reads."""
        return (self.source,)

    @property
    def writes(self) -> tuple[str, ...]:
        """Features that it writes."""
        return (self.target,)


@dataclass(frozen=True, kw_only=True)
class Dense(Transform):
    """Apply a linear layer and an activation to the last axis.

    Attributes:
        in_features: size of the axis.
        out_features: its size in the output.
        bias: whether the linear layer has a bias.
        activation: class name of the activation in `torch.nn`.
        residual: whether the input is added to the output, through a linear layer if the sizes differ.
    """

    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool


@dataclass(frozen=True)
class Normalize(Transform):
    """Divide by the L2 norm of the last axis."""


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Transform):
    """Normalize mean and variance of the last axis.

    Attributes:
        size: size of the axis.
    """

    size: int


@dataclass(frozen=True)
class Dropout(Transform):
    """Return the input: nothing is dropped at inference."""


@dataclass(frozen=True, kw_only=True)
class Activation(Transform):
    """Apply the activation of a cross-encoder to its scores.

    Attributes:
        name: its class name in `torch.nn`.
    """

    name: str


@dataclass(frozen=True, kw_only=True)
class LogitScore(Transform):
    """Return the logit of a token at the last position, less that of another one.

    Attributes:
        true_token_id: id of the token for a match.
        false_token_id: id of the token for no match; None to return the first logit alone.
    """

    true_token_id: int
    false_token_id: int | None


@dataclass(frozen=True, kw_only=True)
class SparseAutoEncoder(Transform):
    """Keep the largest values of a linear layer's output, and zeros elsewhere.

    Attributes:
        in_features: size of the input.
        out_features: size of the output.
        count: number of values to keep.
        normalize: whether the input is normalized to mean 0 and standard deviation 1 before.
        weight: path of the linear layer in the file: `encoder`, or `decoder.linear`, which has the same weight.
    """

    in_features: int
    out_features: int
    count: int
    normalize: bool
    weight: str


@dataclass(frozen=True, kw_only=True)
class Convolutions(Transform):
    """Convolve token embeddings over the sequence with kernels of several sizes, and concatenate the results.

    Attributes:
        in_channels: size of the embeddings.
        out_channels: output size of each convolution.
        kernel_sizes: odd, so that the number of tokens is unchanged.
    """

    in_channels: int
    out_channels: int
    kernel_sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Lstm(Transform):
    """Run an LSTM over the tokens that the mask counts, which padding follows.

    Attributes:
        in_features: size of the embeddings.
        hidden_size: output size of each direction.
        layers: number of layers.
        bidirectional: whether each layer also runs from the last token to the first.
    """

    in_features: int
    hidden_size: int
    layers: int
    bidirectional: bool

    @property
    def reads(self) -> tuple[str, ...]:
        """Features that it reads."""
        return (self.source, MASK)


@dataclass(frozen=True)
class LayerPooling:
    """Average the hidden states of several layers with trained weights, if the model returns all hidden states.

    Attributes:
        start: index of the first layer, where 0 are the embeddings.
        count: number of layers.
    """

    start: int
    count: int

    @property
    def reads(self) -> tuple[str, ...]:
        """Features that it reads."""
        return (LAYERS,)

    @property
    def writes(self) -> tuple[str, ...]:
        """Features that it writes."""
        return (TOKENS,)


@dataclass(frozen=True)
class WordWeights:
    """Multiply each token embedding by the weight of its token; means are divided by the sum of the weights.

    Attributes:
        weights: weight of each token id.
    """

    weights: tuple[float, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """Features that it reads."""
        return (INPUT_IDS, TOKENS, MASK)

    @property
    def writes(self) -> tuple[str, ...]:
        """Features that it writes."""
        return (TOKENS,)


@dataclass(frozen=True)
class SpladePooling(SequencePooling):
    """Pool the logits of a masked language model to one weight for each token of the vocabulary.

    Attributes:
        strategy: `max` or `sum`, over the sequence.
        logarithms: how many times `log(1 + x)` is applied to the positive logits: 1 or 2.
    """

    strategy: str
    logarithms: int


@dataclass(frozen=True)
class Expansion:
    """Describe the tokens that extend short queries to a length, and count in the score.

    Attributes:
        token_id: their id.
        length: number of tokens, up to which positions that the attention mask leaves out count.
    """

    token_id: int
    length: int


@dataclass(frozen=True)
class ScoringMask:
    """Determine which tokens of a query and of a document count in the score of late interaction.

    Attributes:
        skipped_in_queries: ids of tokens of queries that don't count.
        skipped_in_documents: ids of tokens of documents that don't count.
        kept_in_documents: ids of the only tokens of documents that count; empty if all do.
        expansion: the tokens that extend queries, which count, too; None if there are none.
    """

    skipped_in_queries: tuple[int, ...]
    skipped_in_documents: tuple[int, ...]
    kept_in_documents: tuple[int, ...]
    expansion: Expansion | None

    @property
    def reads(self) -> tuple[str, ...]:
        """Features that it reads."""
        return (INPUT_IDS, MASK)

    @property
    def writes(self) -> tuple[str, ...]:
        """Features that it writes."""
        return (QUERY_MASK, DOCUMENT_MASK)


SentenceModule = (
    Pooling
    | Dense
    | Normalize
    | LayerNorm
    | Dropout
    | Activation
    | LogitScore
    | SparseAutoEncoder
    | Convolutions
    | Lstm
    | LayerPooling
    | WordWeights
    | SpladePooling
    | ScoringMask
)
"""A module after the transformer."""


@dataclass(frozen=True)
class SentenceModel:
    """A model of sentence-transformers: a transformer and the modules after it.

    Attributes:
        task: task for which the transformer is loaded; empty for a table of token embeddings.
        output: the transformer's output that becomes a feature.
        feature: name of that feature.
        modules: the modules, in order of computation.
        result: the feature that the library returns: an embedding, scores, or the embeddings of the tokens.
    """

    task: str
    output: str
    feature: str
    modules: tuple[SentenceModule, ...]
    result: str

    @property
    def results(self) -> tuple[str, ...]:
        """Features that the graph returns after the transformer's output."""
        written = {name for module in self.modules for name in module.writes} | {self.result}
        return tuple(name for name in RESULTS if name in written)

    @property
    def takes_prompt_length(self) -> bool:
        """Whether the number of the prompt's tokens is an input."""
        return any(isinstance(module, Pooling) and not module.include_prompt for module in self.modules)


def prefix_of(index: int) -> str:
    """Return the prefix of a module's parameter names in the model.

    Args:
        index: index among the modules after the transformer.
    """
    return f"{HEAD}.module_{index}."
