"""Photos and faces without a network: reading, detection, cropping, copies, people, occluders. No torch."""
