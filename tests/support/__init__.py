"""What the tests share: real servers, and ways to break them."""
