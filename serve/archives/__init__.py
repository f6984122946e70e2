"""Model archives as files: unpacked, copied, and checked before anything of them is used."""
