"""Questions with a boxed final answer."""
