"""One file a module, and the laws that every encoding obeys; see README.md here."""
