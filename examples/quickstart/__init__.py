"""From text to a better retriever in a few minutes: data, mining, training, encoding, search and scores on one page."""
