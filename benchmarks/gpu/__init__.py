"""What a resident version costs on a GPU: on paper, and measured where there is one."""
