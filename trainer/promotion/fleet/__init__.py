"""Several TorchServe servers with one champion, and the door at which they and the gateways reach the promoter."""
