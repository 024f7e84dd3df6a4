#pragma once

/// A file in memory; negative on failure.
int kalsae_memory_file(const char *name);

/// Writes a line to standard error.
void kalsae_complain(const char *text);
