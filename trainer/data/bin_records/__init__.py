"""The records of photos, with their products: right ones, and wrong ones that are made of them."""
