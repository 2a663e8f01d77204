"""From text to windows of tokens, in one direction: corpus -> tokenizer -> token stream -> windows -> data module."""
