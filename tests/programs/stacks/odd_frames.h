/* Functions by hand, in odd_frames.S. Each calls what it is given. */
#ifndef ODD_FRAMES_H
#define ODD_FRAMES_H

/* Pushes, pops and moves the stack pointer; wipes rbp; has an early way out before the call. */
void odd_pushes(void (*callback)(void));

/* Finds its frame by rbx, as glibc's lazy binding does. */
void cfa_in_rbx(void (*callback)(void));

/* What gcc does for a frame that it aligns: an expression over rbp, and rbp saved by one. */
void cfa_by_drap(void (*callback)(void));

/* As OpenSSL has it: the caller's stack pointer is a word of the frame. */
void cfa_by_expression(void (*callback)(void));

/* Stands on its first instruction, of SPIN_BYTES bytes, until a signal handler moves it on. What
 * lies right before it is another function, in the middle of its frame. */
void spin_at_entry(void);

#define SPIN_BYTES 2
#endif
