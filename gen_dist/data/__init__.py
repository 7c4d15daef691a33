"""From shards to batches: an index of the samples, an order over them, and a stream that decodes them."""
