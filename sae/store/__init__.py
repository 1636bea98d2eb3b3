"""The activation store: Arrow shards in object storage, each with a receipt, and a manifest that is written last."""
