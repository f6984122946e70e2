"""Model archives as files: opened, verified and copied safely, whoever made them."""
