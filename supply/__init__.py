"""What a deployment consists of: the licences, the bill of materials and the known vulnerabilities of a lock."""
