"""What is carried out by compiled code, where numba can be imported: nothing else imports these."""
