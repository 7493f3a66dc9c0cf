"""Who really sent it: SPF, DKIM, DMARC and ARC as look-up plans and verifiers without input or output of their own."""
