"""What is done to the gradients of several tasks before they become one."""
