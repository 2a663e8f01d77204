"""Which tokens end a line or a sentence: for encodings whose coordinates count lines and sentences."""

import re

from data.tokenizer import TextTokenizer

ENDS = {"line": re.compile(r"\n"), "sentence": re.compile(r"""[.!?]["'’”)\]]*\s*$""")}


def separators(tokenizer: TextTokenizer) -> dict[str, tuple[int, ...]]:
    """Ids of the tokens that hold a line feed ("line"), and of those that end in . ! or ? ("sentence"), ascending."""
    texts = {
        token: tokenizer.tokenizer.decode([token], skip_special_tokens=False)
        for token in range(tokenizer.vocab_size)
        if token != tokenizer.separator
    }
    return {kind: tuple(t for t, text in texts.items() if pattern.search(text)) for kind, pattern in ENDS.items()}
