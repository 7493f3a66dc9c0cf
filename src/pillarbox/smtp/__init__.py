"""The SMTP and LMTP protocol, without any input or output: lines, commands, and both ends of a session."""
