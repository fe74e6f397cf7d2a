"""Every refusal and fault of ironcage; `tree` draws them."""
