/* Colours of the figures: two scales and two sets whose colours differ also for readers with red-green colour blindness and in
 * grey print. */
#pragma once

typedef struct um_colour {
    char hex[8];      /* "#rrggbb" */
    double luminance; /* 0 black .. 1 white, as WCAG 2 defines it, but without its gamma */
} um_colour;

enum { UM_SCALE_STOPS = 9 };

/* From pale (0) to dark (1) with steadily falling brightness. t outside 0..1 gives the colour of the nearer end. */
um_colour um_colour_share(double t);
/* Blue (-1), white (0), red (1), both sides equally dark. */
um_colour um_colour_change(double t);
/* The colour of a um_modality. */
const char *um_colour_modality(int modality);
/* The colour of one of a few experts; 0 <= i < UM_COLOUR_EXPERTS. */
enum { UM_COLOUR_EXPERTS = 8 };
const char *um_colour_expert(int i);
