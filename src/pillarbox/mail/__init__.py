"""The values everything else speaks in: addresses, replies, envelopes, messages and delivery reports."""
