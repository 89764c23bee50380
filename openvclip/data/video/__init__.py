"""Reading videos: which frames, decoding them, cutting crops, the frame cache."""
