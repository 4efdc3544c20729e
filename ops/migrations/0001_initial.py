
from django.db import migrations


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('main', '0002_queues'),
    ]

    operations = [
        migrations.CreateModel(
            name='DeadLetter',
            fields=[
            ],
            options={
                'verbose_name': 'dead letter',
                'verbose_name_plural': 'dead letters',
                'proxy': True,
                'default_permissions': (),
                'indexes': [],
                'constraints': [],
            },
            bases=('main.execution',),
        ),
        migrations.CreateModel(
            name='Queue',
            fields=[
            ],
            options={
                'verbose_name': 'queue',
                'verbose_name_plural': 'queues',
                'proxy': True,
                'default_permissions': (),
                'indexes': [],
                'constraints': [],
            },
            bases=('main.execution',),
        ),
    ]
